import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain.curation.linting import lint
from posttrain.curation.linting.displacement import ches, outlooks
from posttrain.models.learner import Learner
from posttrain.types import Segment


def test_ches_by_hand():
    # S+ = (2, 2), S- = (3, 1): 8 - 8, and 8 / (2 x 1) - 8 / 4.
    assert ches(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[3.0, 1.0]])) == (0.0, 2.0)


def test_ches_of_equal_sides_is_zero():
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert ches(states, states) == pytest.approx((0.0, 0.0))


def test_outlook_is_that_of_plain_rows():
    model = build_model("llama")
    prompt, chosen, rejected = [5, 9, 12], [20, 33, 2], [41, 2]
    tree = Segment(
        tokens=prompt,
        children=[Segment(tokens=answer, trained=[(0, len(answer))]) for answer in (chosen, rejected)],
    )
    found = outlooks([tree, tree], ["p:1", "p:2"], Learner(model), max_tokens=6)
    sums, logprobs = [], []
    for answer in (chosen, rejected):
        with torch.no_grad():
            output = model(torch.tensor([prompt + answer]), output_hidden_states=True)
        places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        sums.append(output.hidden_states[-1][0, places].sum(dim=0))
        table = output.logits[0, places].log_softmax(dim=-1)
        logprobs.append(float(table.gather(1, torch.tensor(answer)[:, None]).sum()))
    product, square = float(sums[0] @ sums[1]), float(sums[0] @ sums[0])
    for one, place in zip(found, ("p:1", "p:2"), strict=True):
        assert one.place == place
        assert one.ches == pytest.approx(product - square, rel=1e-4)
        assert one.ches_normalised == pytest.approx(product / 6 - square / 9, rel=1e-4)
        assert [one.chosen_logprob, one.rejected_logprob] == pytest.approx(logprobs, abs=1e-3)
        assert one.gap == pytest.approx(logprobs[0] - logprobs[1], abs=1e-3)


def test_pairs_are_listed_with_a_model_and_not_without():
    rows = [{"prompt": "Who are you?", "chosen": f" I am Qwen {i}.", "rejected": f" {i} apples."} for i in range(4)]
    report = lint(rows, model=build_model("qwen2"), tokenizer=build_tokenizer(), max_length=64, model_pairs=3)
    assert [one.place for one in report.outlooks] == ["dataset:1", "dataset:2", "dataset:3"]
    assert [finding.check for finding in report.findings if finding.check == "displacement"]
    assert "CHES/length" in report.text(color=False)
    assert not lint(rows).outlooks

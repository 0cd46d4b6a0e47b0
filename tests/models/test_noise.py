"""Noise on the embeddings: how large it is, when it is there, and that a run can be repeated with it."""

import math

import pytest
import torch
from tiny import build_model, build_tokenizer
from torch import nn

from posttrain import SFTConfig, SFTTrainer
from posttrain.algorithms.sft import sft_batch, sft_loss
from posttrain.models.learner import Learner
from posttrain.models.noise import EmbeddingNoise
from posttrain.types import Segment, TokenForest

ALPHA, WIDTH = 5.0, 64


def row(length: int, start: int = 3) -> Segment:
    return Segment(tokens=list(range(start, start + length)), trained=[(1, length)])


TREE = Segment(tokens=[5, 6], children=[row(3), row(7)])


def drawn(layout: str, trees: list[Segment]) -> torch.Tensor:
    """The noise alone: what an embedding of zeros gives."""
    from posttrain.models.layouts import LAYOUTS

    embedding = nn.Embedding(50, WIDTH)
    nn.init.zeros_(embedding.weight)
    noise = EmbeddingNoise(embedding, ALPHA)
    inputs = LAYOUTS[layout].lay(TokenForest.from_trees(trees)).inputs
    noise.expect(inputs)
    torch.manual_seed(0)
    found = embedding(inputs["input_ids"])
    assert not embedding(inputs["input_ids"]).any()  # announced once, disturbed once
    noise.take_off()
    assert not embedding._forward_hooks
    return found.detach()


@pytest.mark.parametrize(
    ("layout", "trees", "lengths"),
    [
        ("forest", [row(2), row(9)], [[2] * 2 + [9] * 9]),
        ("forest", [TREE, row(4)], [[9] * 12 + [4] * 4]),  # of a tree the longest path: 2 + 7
        ("unshared", [TREE], [[5] * 5 + [9] * 9]),
        ("padded", [row(2), row(9)], [[2] * 9, [9] * 9]),
    ],
)
def test_the_noise_is_uniform_and_scaled_by_the_row_s_length(layout, trees, lengths):
    found, sizes = drawn(layout, trees), torch.tensor(lengths, dtype=torch.float32)
    bound = ALPHA / (sizes * WIDTH).sqrt()
    share = found / bound[..., None]
    assert share.abs().max() <= 1
    assert share.abs().max() > 0.99
    assert share.pow(2).mean().item() == pytest.approx(1 / 3, rel=0.15)  # of a uniform number between -1 and 1
    assert abs(share.mean().item()) < 4 / math.sqrt(3 * share.numel())


def learner(alpha: float | None) -> Learner:
    made = Learner(build_model("qwen3"))
    if alpha:
        made.disturb_embeddings(alpha)
    return made


def test_there_is_none_in_evaluation_nor_after_release():
    forest = TokenForest.from_trees([row(6), row(3)])
    plain, noisy = learner(None), learner(ALPHA)
    expected = plain.eval()(forest).logprobs
    assert torch.equal(noisy.eval()(forest).logprobs, expected)
    assert (noisy.train()(forest).logprobs - expected).abs().max() > 1e-2
    ids = forest.tokens[None, :6]
    model = noisy.release()
    assert model.training
    assert torch.equal(model(input_ids=ids).logits, plain.release()(input_ids=ids).logits)


def test_on_a_cpu_a_step_is_the_same_however_it_is_cut():
    batch = sft_batch([row(n, start=n) for n in (4, 9, 2, 7)])
    noisy = learner(ALPHA).train()

    def loss(max_tokens: int) -> float:
        torch.manual_seed(3)
        return sum(sft_loss(part, noisy(part.forest)).terms["sft"].item() for part in batch.cut(max_tokens))

    assert loss(1) == pytest.approx(loss(100), rel=1e-5)
    assert loss(13) == pytest.approx(loss(100), rel=1e-5)


def trained(path, *, resume=False, **settings):
    rows = [{"text": f"{i} and {i + 1} are red apples."} for i in range(6)]
    args = SFTConfig(
        output_dir=str(path), save_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none",
        logging_steps=1, bf16=False, **{"max_steps": 4, **settings},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=build_model("qwen3"), args=args, train_dataset=rows, eval_dataset=rows, processing_class=build_tokenizer()
    )
    trainer.train(resume_from_checkpoint=str(path / "checkpoint-2") if resume else None)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer.evaluate()["eval_loss"]


def test_a_trainer_adds_it_and_a_resumed_run_goes_on_with_it(tmp_path):
    (plain, *_), _ = trained(tmp_path / "plain", max_steps=1)
    losses, end = trained(tmp_path / "noisy", neftune_noise_alpha=ALPHA)
    assert losses[0] != plain
    assert trained(tmp_path / "noisy", neftune_noise_alpha=ALPHA, resume=True) == (losses, end)

"""The forest's log-probabilities and gradients against rows computed one by one, for each architecture and layout."""

import pytest
import torch
from tiny import ARCHITECTURES

from posttrain.models.layouts import LAYOUTS, _rows, lay_forest, probe
from posttrain.models.learner import Learner
from posttrain.types import TokenForest


def forest_for(model) -> TokenForest:
    return TokenForest.from_trees(probe(model.config.vocab_size, getattr(model.config, "sliding_window", None)))


def row_by_row(model, forest):
    found = []
    for q, row in enumerate(_rows(forest)):
        table = model(input_ids=forest.tokens[row][None], use_cache=False).logits[0].float().log_softmax(dim=-1)
        mine = forest.sequence == q
        places = forest.positions[forest.predictors[mine]]
        found.append(table[places].gather(1, forest.targets[mine][:, None])[:, 0])
    return torch.cat(found)


def gradients(model, logprobs):
    upstream = torch.linspace(-1.0, 1.0, len(logprobs))
    model.zero_grad()
    (logprobs * upstream).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_layout_equals_single_rows(tiny_model, arch, layout):
    model = tiny_model(arch)
    forest = forest_for(model)
    expected = row_by_row(model, forest)
    wanted = gradients(model, expected)
    learner = Learner(model, layout=layout)
    outputs = learner(forest)
    torch.testing.assert_close(outputs.logprobs, expected.detach(), rtol=1e-5, atol=1e-5)
    got = gradients(model, outputs.logprobs)
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_forest_layout_and_the_fused_head_serve_every_ordinary_architecture(tiny_model, arch):
    learner = Learner(tiny_model(arch))
    assert learner.layout.name == "forest", learner.layout_note
    assert learner.fused_head


@pytest.mark.parametrize("arch", ["llama", "gemma3_text"])
def test_gradient_checkpointing_changes_nothing(tiny_model, arch):
    model = tiny_model(arch)
    forest = forest_for(model)
    learner = Learner(model).train()
    plain = gradients(model, learner(forest).logprobs)
    model.activation_checkpointing_enable({"use_reentrant": False})
    kept = gradients(model, learner(forest).logprobs)
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


def test_a_window_that_is_ignored_would_be_noticed(tiny_model):
    model = tiny_model("mistral")
    forest = forest_for(model)
    wide = tiny_model("mistral", sliding_window=None)
    wide.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert (row_by_row(model, forest) - row_by_row(wide, forest)).abs().max() > 1e-3


def test_a_model_that_cannot_be_given_forests_falls_back_to_padded_rows(tiny_model):
    model = tiny_model("llama")
    model.model.layers[0].self_attn.forward = _without_positions(model.model.layers[0].self_attn)
    learner = Learner(model)
    assert learner.layout.name == "padded"
    assert "differ" in learner.layout_note


def _without_positions(attention):
    """Attention that looks at the token before it in the row, whatever its segment, as a convolution does."""
    plain = attention.forward

    def forward(hidden_states, **kwargs):
        shifted = torch.nn.functional.pad(hidden_states, (0, 0, 1, 0))[:, :-1]
        return plain(hidden_states=hidden_states + shifted, **kwargs)

    return forward


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_head_that_is_more_than_a_matrix_is_not_fused(tiny_model, layout):
    model = tiny_model("gemma3_text", final_logit_softcapping=2.0)
    learner = Learner(model, layout=layout)
    assert not learner.fused_head
    assert not Learner(tiny_model("gemma3_text", final_logit_softcapping=30.0).to(torch.bfloat16)).fused_head
    forest = forest_for(model)
    outputs = learner(forest, needs=("logprobs", "entropy"))
    torch.testing.assert_close(outputs.logprobs, row_by_row(model, forest), rtol=1e-5, atol=1e-5)
    assert outputs.entropy is not None


def test_generate_works_while_the_model_is_held_by_a_learner(tiny_model):
    model = tiny_model("mistral")
    prompt = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]])
    before = model.generate(prompt, max_new_tokens=6, do_sample=False)
    learner = Learner(model)
    assert torch.equal(model.generate(prompt, max_new_tokens=6, do_sample=False), before)
    assert torch.equal(learner.release().generate(prompt, max_new_tokens=6, do_sample=False), before)


def test_an_empty_part_gives_zero_gradients_to_every_parameter(tiny_model):
    model = tiny_model("qwen3")
    for layout in LAYOUTS:
        model.zero_grad()
        Learner(model, layout=layout)(forest_for(model).nothing()).logprobs.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_prompt_is_computed_once_and_the_head_only_where_needed(tiny_model, monkeypatch):
    """Counts that must not be lost unnoticed: tokens of the body, rows of the head."""
    model = tiny_model("llama")
    learner = Learner(model)
    forest = forest_for(model)
    seen = {}
    model.model.layers[0].register_forward_hook(lambda _m, args, out: seen.update(body=out.shape[:2].numel()))
    import posttrain.models.learner as room

    plain = room.chosen_logprobs
    monkeypatch.setattr(
        room, "chosen_logprobs", lambda hidden, *a, **k: seen.update(head=hidden.shape[0]) or plain(hidden, *a, **k)
    )
    learner(forest)
    assert seen == {"body": len(forest.tokens), "head": len(forest.targets)}
    assert lay_forest(forest).tokens == len(forest.tokens) < sum(len(row) for row in _rows(forest))

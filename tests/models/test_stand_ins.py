"""Models with the stand-ins on against their own code, and what is left alone or put back."""

import copy
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import ARCHITECTURES
from torch import nn
from torch.nn import functional
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from posttrain.models.layouts import probe
from posttrain.models.learner import Learner
from posttrain.models.stand_ins import StandIns
from posttrain.types import TokenForest

FOUND = {  # norms, gated MLPs, attentions
    "llama": (5, 2, 2),
    "qwen2": (5, 2, 2),
    "qwen3": (9, 2, 2),
    "gemma": (5, 2, 2),
    "mistral": (5, 2, 2),
    "gemma3_text": (19, 3, 3),
    "phi3": (5, 2, 2),
    "phi": (0, 0, 2),
    "gpt2": (0, 0, 0),
}


SHARE = 5e-6  # of a tensor's largest number: rounding


def kinds(stand_ins):
    count = Counter(type(module).__name__.lower() for module, _ in stand_ins.forwards)
    return tuple(sum(n for name, n in count.items() if kind in name) for kind in ("norm", "mlp", "attention"))


def patched(model):
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def results(learner, *, autocast=False):
    """Log-probabilities, entropy and every gradient of the probe's trees."""
    model = learner.model
    window = getattr(model.config, "sliding_window", None)
    forest = TokenForest.from_trees(probe(model.config.vocab_size, window))
    learner.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = learner(forest, ("logprobs", "entropy"))
    (outputs.logprobs * torch.linspace(-1.0, 1.0, len(outputs.logprobs))).sum().backward()
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    return {"logprobs": outputs.logprobs.detach(), "entropy": outputs.entropy} | gradients


def plain(model):
    """A learner that leaves the model's own code in place."""
    learner = Learner(model)
    learner.body.stand_ins.forwards.clear()
    return learner


def assert_equal(ours, wanted, share):
    """Equal to this share of each tensor's largest number."""
    assert ours.keys() == wanted.keys()
    for name, own in wanted.items():
        assert ours[name].dtype == own.dtype
        torch.testing.assert_close(
            ours[name], own, rtol=0, atol=share * max(1.0, float(own.abs().max())), msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_values_and_gradients_are_those_of_the_models_own_code(tiny_model, arch):
    model = tiny_model(arch)
    learner = Learner(model)
    assert kinds(learner.body.stand_ins) == FOUND[arch]
    ours = results(learner)
    assert len(patched(model)) == sum(FOUND[arch])
    learner.release()
    assert not patched(model)
    assert_equal(ours, results(plain(model)), SHARE)


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3_text"])
def test_under_autocast_they_differ_as_bfloat16_rounds(tiny_model, arch):
    model = tiny_model(arch)
    ours = results(Learner(model), autocast=True)
    wanted = results(plain(tiny_model(arch)), autocast=True)
    exact = results(plain(tiny_model(arch)))

    def off(found):
        return sum(float((found[name].float() - exact[name]).norm() / exact[name].norm()) for name in exact)

    assert ours.keys() == wanted.keys()
    assert off(ours) < 1.1 * off(wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_keep_their_place(tiny_model, dropout):
    def build():
        torch.manual_seed(0)
        config = LoraConfig(target_modules="all-linear", r=4, lora_dropout=dropout, init_lora_weights=False)
        return get_peft_model(tiny_model("qwen3"), config)

    both = []
    for make in (Learner, plain):
        learner = make(build()).train()
        torch.manual_seed(1)
        both.append(results(learner))
    assert any("lora_A" in name for name in both[0])
    assert_equal(*both, SHARE)


def test_release_puts_everything_back(tiny_model):
    model = tiny_model("qwen3")
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    state = set(model.state_dict())
    learner = Learner(model)
    assert not patched(model)  # only a forward takes over
    results(learner)
    assert set(model.state_dict()) == state
    copied = copy.deepcopy(learner.release())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not patched(copied)
    results(learner)
    assert patched(model)
    learner.release()
    learner.release()
    assert not patched(model)


def test_a_copy_made_in_between_computes_with_its_own_weights(tiny_model):
    model = tiny_model("llama")
    learner = Learner(model)
    results(learner)
    copied = copy.deepcopy(model)
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        before = model(tokens).logits
        for parameter in copied.parameters():
            parameter.zero_()
        assert not copied(tokens).logits.any()
        assert torch.equal(model(tokens).logits, before)


def test_two_learners_of_one_model_do_not_disturb_each_other(tiny_model):
    model = tiny_model("llama")
    first, second = Learner(model), Learner(model)
    wanted = results(first)
    assert_equal(results(second), wanted, 0.0)
    first.release()
    assert not patched(model)
    second.release()
    assert_equal(results(Learner(model)), wanted, 0.0)


def test_what_someone_else_patched_is_left_alone(tiny_model):
    model = tiny_model("llama")
    norm = model.model.norm
    norm.forward = lambda hidden_states: LlamaRMSNorm.forward(norm, hidden_states) * 2
    learner = Learner(model)
    assert kinds(learner.body.stand_ins) == (4, 2, 2)
    late = model.model.layers[0].mlp
    late.forward = lambda x: x * 0  # after the learner looked
    results(learner)
    learner.release()
    assert patched(model) == ["model.layers.0.mlp", "model.norm"]


def test_the_search_leaves_random_numbers_and_modes_alone(tiny_model):
    model = get_peft_model(tiny_model("qwen3"), LoraConfig(target_modules="all-linear", lora_dropout=0.5)).train()
    model.base_model.model.model.norm.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    StandIns(model)
    assert [module.training for module in model.modules()] == modes
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))
    assert all(p.grad is None for p in model.parameters())


class Shifted(LlamaRMSNorm):
    def forward(self, hidden_states):
        return super().forward(hidden_states) + 1e-3


class OtherEps(LlamaRMSNorm):
    def forward(self, hidden_states):
        x = hidden_states.float()
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 2e-6))


class DetachedScale(LlamaRMSNorm):
    """The same values, but no gradient through the scale."""

    def forward(self, hidden_states):
        scale = torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden_states * scale.detach())


class OnlyInTraining(LlamaRMSNorm):
    def forward(self, hidden_states):
        made = super().forward(hidden_states)
        return functional.dropout(made, 0.1, self.training)


class TwoInputs(LlamaRMSNorm):
    def forward(self, hidden_states, gate=None):
        return super().forward(hidden_states) * (1 if gate is None else gate)


class Clamped(LlamaMLP):
    def forward(self, x):
        return self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(-2, 2))


class Swapped(LlamaMLP):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class DropsOut(LlamaMLP):
    def forward(self, x):
        return self.down_proj(functional.dropout(self.act_fn(self.gate_proj(x)), 0.2, self.training) * self.up_proj(x))


@pytest.mark.parametrize("kind", [Shifted, OtherEps, DetachedScale, OnlyInTraining, TwoInputs])
def test_a_norm_that_computes_something_else_keeps_its_code(tiny_model, kind):
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.input_layernorm.__class__ = kind
    stand_ins = StandIns(model)
    assert kinds(stand_ins) == (3, 2, 2)
    assert kind not in {type(module) for module, _ in stand_ins.forwards}


@pytest.mark.parametrize("kind", [Clamped, Swapped, DropsOut])
def test_an_mlp_that_computes_something_else_keeps_its_code(tiny_model, kind):
    model = tiny_model("llama")
    model.model.layers[1].mlp.__class__ = kind
    stand_ins = StandIns(model)
    assert len(stand_ins.forwards) == sum(FOUND["llama"]) - 1
    assert kind not in {type(module) for module, _ in stand_ins.forwards}


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "gelu_pytorch_tanh"])
def test_the_activation_is_found_by_what_it_computes(tiny_model, activation):
    model = tiny_model("llama", hidden_act=activation)
    assert kinds(StandIns(model))[1] == (0 if activation == "relu" else 2)
    assert_equal(results(Learner(model)), results(plain(tiny_model("llama", hidden_act=activation))), SHARE)


def test_positions_turned_otherwise_keep_their_code(tiny_model, monkeypatch):
    def interleaved(q, k, cos, sin, unsqueeze_dim=1):
        """Neighbours are turned together, as in GPT-J."""

        def turn(x):
            return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + turn(q) * sin, k * cos + turn(k) * sin

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", interleaved)
    assert kinds(StandIns(tiny_model("llama"))) == (5, 2, 0)


def test_a_norm_between_layers_norms_is_told_apart(tiny_model):
    """LayerNorm also has an eps and a weight."""
    model = tiny_model("llama")
    model.model.norm = nn.LayerNorm(32, bias=False)
    assert kinds(StandIns(model)) == (4, 2, 2)


def test_generate_goes_through_them_with_a_cache(tiny_model):
    for arch in ("qwen3", "gemma3_text"):
        model = tiny_model(arch)
        prompt = torch.arange(5, 15)[None]
        before = model.generate(prompt, max_new_tokens=6, do_sample=False)
        learner = Learner(model)
        results(learner)
        assert patched(model)
        assert torch.equal(model.generate(prompt, max_new_tokens=6, do_sample=False), before)

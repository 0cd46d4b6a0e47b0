"""A LoRA adapter is merged for the time of sampling and taken out bit by bit, or applied."""

import pytest
import torch

from posttrain.errors import ConfigError, ModelError
from posttrain.models.lora import apply_lora
from posttrain.sampling.adapters import merged, to_merge
from posttrain.sampling.local import LocalSampler
from posttrain.types import SamplingParams


def adapted(model, **config):
    """The model with an adapter that has learned something."""
    model = apply_lora(model, {"r": 2, **config})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def state(model):
    return {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}


def same(model, before):
    after = model.state_dict(keep_vars=True)
    return all(
        value.data_ptr() == before[name][0] and torch.equal(value, before[name][1]) for name, value in after.items()
    )


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("config", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_merging_is_exact_and_undone_bit_by_bit(arch, config, tiny_model, tiny_tokenizer):
    model = adapted(tiny_model(arch), **config)
    before = state(model)
    results = {}
    for choice in ("merge", "apply", "auto"):
        sampler = LocalSampler(model, tiny_tokenizer, adapter=choice)
        (group,) = sampler.sample(["Hi"], SamplingParams(max_tokens=12), count=3)
        results[choice] = group
        assert same(model, before)
        assert not any(getattr(module, "merged", False) for module in model.modules())
    assert results["merge"] == results["auto"]
    plain = LocalSampler(tiny_model(arch), tiny_tokenizer).sample(["Hi"], SamplingParams(max_tokens=12), count=3)[0]
    for one, other, without in zip(results["merge"], results["apply"], plain):
        assert one.tokens == other.tokens != without.tokens
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


def test_weights_come_back_after_an_interruption(tiny_model, tiny_tokenizer):
    model = adapted(tiny_model("qwen2"))
    before = state(model)
    sampler = LocalSampler(model, tiny_tokenizer, adapter="merge")

    def interrupt(done, total):
        assert model.base_model.model.model.layers[0].self_attn.q_proj.merged
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.sample(["Hi"], SamplingParams(max_tokens=3), progress=interrupt)
    assert same(model, before)


def test_gradients_are_the_same_after_merging(tiny_model):
    model = adapted(tiny_model("llama"))
    tokens = torch.tensor([[5, 6, 7]])

    def gradients():
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    wanted = gradients()
    with merged(model), torch.no_grad():
        model(tokens)
    assert all(torch.equal(a, b) for a, b in zip(wanted, gradients()))


def test_what_cannot_be_merged_is_applied(tiny_model, tiny_tokenizer):
    tied = adapted(tiny_model("llama", tie_word_embeddings=True), target_modules=["q_proj", "lm_head"])
    assert not to_merge(tied, "auto")
    with pytest.raises(ConfigError, match="a matrix that another layer uses"):
        LocalSampler(tied, tiny_tokenizer, adapter="merge")
    LocalSampler(tied, tiny_tokenizer).sample(["Hi"], SamplingParams(max_tokens=3))

    done = adapted(tiny_model("llama"))
    done.merge_adapter()
    assert not to_merge(done, "auto")
    with pytest.raises(ConfigError, match="merged already"):
        to_merge(done, "merge")


def test_short_formats_are_merged_on_request_only(tiny_model):
    model = adapted(tiny_model("llama").to(torch.bfloat16))
    assert not to_merge(model, "auto")
    assert to_merge(model, "merge")
    assert not to_merge(tiny_model("llama"), "merge")  # nothing to merge


def test_an_adapter_that_is_switched_off_stays_off(tiny_model, tiny_tokenizer):
    model = adapted(tiny_model("llama"))
    params = SamplingParams(max_tokens=8, temperature=0)
    plain = LocalSampler(tiny_model("llama"), tiny_tokenizer).sample(["Hi"], params)
    sampler = LocalSampler(model, tiny_tokenizer)
    with model.disable_adapter():
        assert sampler.sample(["Hi"], params)[0][0].tokens == plain[0][0].tokens
    assert sampler.sample(["Hi"], params)[0][0].tokens != plain[0][0].tokens


def test_an_adapter_without_numbers_is_an_error(tiny_model, tiny_tokenizer):
    model = adapted(tiny_model("llama"))
    sampler = LocalSampler(model, tiny_tokenizer)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n).fill_(torch.nan)
    before = state(model)
    with pytest.raises(ModelError, match="no numbers"):
        sampler.sample(["Hi"], SamplingParams(max_tokens=3))
    after = model.state_dict(keep_vars=True)
    assert all(value.data_ptr() == before[name][0] for name, value in after.items())

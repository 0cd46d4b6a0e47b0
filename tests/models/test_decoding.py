"""Decoding a token at a time gives the logits of whole rows, however rows come, go and share prompts."""

import pytest
import torch
from decoded_rows import PROMPTS, decode
from tiny import ARCHITECTURES, build_model

from posttrain.models.decoding import NAME
from posttrain.models.decoding_check import choose_decoding
from posttrain.models.decoding_native import compilable
from posttrain.models.decoding_step import ARCHITECTURES as FUSED
from posttrain.models.decoding_step import fusable
from posttrain.models.forest_attention import attention_of
from posttrain.models.lora import apply_lora


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_logits_equal_those_of_whole_rows(arch, shared):
    model = build_model(arch)
    ways = ["modules", "fused"] if arch in FUSED else ["modules"]
    ways += ["native"] if compilable(model) else []
    assert choose_decoding(model) == (ways[-1], "")
    for way in ways:
        for places in (2, 5):
            for found, expected in decode(model, way, shared=shared, places=places).values():
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_a_wrong_step_is_found_and_not_used(monkeypatch):
    from posttrain.models import decoding_native, decoding_step

    monkeypatch.setattr(decoding_native.NativeStep, "_gated", lambda self, both: both[:, : both.shape[1] // 2])
    assert choose_decoding(build_model("llama")) == ("fused", "")

    monkeypatch.setattr(decoding_step.FusedStep, "_norm", lambda self, states, weight: weight * states)
    assert choose_decoding(build_model("llama")) == ("modules", "")


def test_what_cannot_decode_says_why():
    way, why = choose_decoding(build_model("gemma2"))
    assert way is None
    assert "modules: logits differ from single rows" in why


def test_the_fused_step_takes_merged_adapters_only():
    model = apply_lora(build_model("llama"), {"r": 2})
    causal = model.get_base_model()
    assert not fusable(causal)
    assert choose_decoding(causal)[0] == "modules"
    model.merge_adapter()
    assert fusable(causal)
    assert not fusable(build_model("phi3"))


def test_bfloat16_models_decode():
    model = build_model("llama").to(torch.bfloat16)
    assert choose_decoding(model) == ("fused", "")
    assert choose_decoding(build_model("gpt2").to(torch.bfloat16)) == ("modules", "")


def test_weights_beyond_the_limit_are_used_where_they_lie(monkeypatch):
    from posttrain.models import decoding_step

    monkeypatch.setattr(decoding_step, "JOINED_BYTES", 0)
    for found, expected in decode(build_model("qwen2"), "fused", shared=True, places=3).values():
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_a_call_without_a_plan_is_ordinary_attention():
    model = build_model("qwen3")
    tokens = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        expected = model(tokens).logits
        with attention_of(model, NAME):
            torch.testing.assert_close(model(tokens).logits, expected)

"""Decoding a token at a time gives the logits of whole rows, however rows come, go and share prompts."""

import pytest
import torch
from tiny import ARCHITECTURES, build_model

from posttrain.models.decoding import NAME, Decoder
from posttrain.models.decoding_check import choose_decoding
from posttrain.models.decoding_memory import RowMemory
from posttrain.models.decoding_step import ARCHITECTURES as FUSED
from posttrain.models.decoding_step import fusable
from posttrain.models.forest_attention import attention_of
from posttrain.models.lora import apply_lora

PROMPTS = [list(range(20, 33)), [40, 41], list(range(50, 57))]  # the first longer than the tiny windows of 8
ROWS = [(0, 11), (1, 3), (0, 9), (2, 12), (1, 10)]  # (prompt, tokens), in the order in which they come


def decode(model, way: str, *, shared: bool, places: int) -> dict[int, torch.Tensor]:
    """Per row the logits after its prompt and each token; at most `places` rows at once, replaced as they end."""
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(384, (size,), generator=generator).tolist() for _, size in ROWS]
    found: dict[int, list[torch.Tensor]] = {}
    with torch.no_grad(), attention_of(model, NAME):
        decoder = Decoder(model, way)
        prompts = decoder.prefill(PROMPTS[:2]) + decoder.prefill(PROMPTS[2:])
        memory = RowMemory(rows=places, new_tokens=12, longest_prompt=13, shared=shared, like=prompts[0])
        waiting, active = list(range(len(ROWS))), []

        def start(place: int) -> None:
            row = waiting.pop(0)
            active[place : place + 1] = [row]
            memory.put(place, prompts[ROWS[row][0]])
            found[row] = [prompts[ROWS[row][0]].logits]

        while waiting or active:
            while waiting and len(active) < places:
                start(len(active))
            tokens = torch.tensor([texts[row][len(found[row]) - 1] for row in active])
            for row, logits in zip(active, decoder.step(tokens, memory).clone()):
                found[row].append(logits)
            for place in reversed(range(len(active))):
                if len(found[active[place]]) > len(texts[active[place]]):
                    if waiting:
                        start(place)
                    else:
                        memory.drop(place)
                        active[place] = active[-1]
                        active.pop()
    whole = {}
    for row, (prompt, _) in enumerate(ROWS):
        with torch.no_grad():
            logits = model(torch.tensor([PROMPTS[prompt] + texts[row]]), use_cache=False).logits[0]
        whole[row] = (torch.stack(found[row]), logits[len(PROMPTS[prompt]) - 1 :])
    return whole


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_logits_equal_those_of_whole_rows(arch, shared):
    model = build_model(arch)
    ways = ["modules", "fused"] if arch in FUSED else ["modules"]
    assert choose_decoding(model) == (ways[-1], "")
    for way in ways:
        for places in (2, 5):
            for found, expected in decode(model, way, shared=shared, places=places).values():
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_a_wrong_step_is_found_and_not_used(monkeypatch):
    from posttrain.models import decoding_step

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

"""The compiled step: what its parts compute, when it is used, and that everything works without it."""

import ctypes
import subprocess
import sys

import pytest
import torch
from decoded_rows import decode
from tiny import build_model, build_tokenizer

from posttrain.models.compiled import SWITCH, compiled
from posttrain.models.decoding import NAME, Decoder
from posttrain.models.decoding_check import choose_decoding
from posttrain.models.decoding_memory import RowMemory
from posttrain.models.decoding_native import SOURCE, NativeStep, compilable
from posttrain.models.forest_attention import attention_of
from posttrain.models.lora import apply_lora
from posttrain.models.packed import PackedMatrix
from posttrain.sampling.local import LocalSampler
from posttrain.types import SamplingParams

needs_compiler = pytest.mark.skipif(compiled(SOURCE)[0] is None, reason=f"compiler: {compiled(SOURCE)[1]}")


def at(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@needs_compiler
@pytest.mark.parametrize("size", [5, 64, 1000])
def test_norms_and_gates_are_those_of_torch_to_the_last_digits(size):
    library, _ = compiled(SOURCE)
    torch.manual_seed(0)
    states, added, weight = torch.randn(7, size), torch.randn(7, size), torch.randn(size)
    out = torch.empty(7, size)
    expected = states + added
    library.posttrain_add_norm(
        ctypes.c_int64(7), ctypes.c_int64(size), at(states), at(added), at(weight), ctypes.c_float(1e-6), at(out),
        ctypes.c_int64(2),
    )  # fmt: skip
    assert torch.equal(states, expected)
    torch.testing.assert_close(out, torch.nn.functional.rms_norm(expected, (size,), weight, 1e-6), rtol=2e-6, atol=2e-6)
    gate = torch.cat([torch.linspace(-120, 120, size), torch.tensor([0.0, -0.0, 90.0, -90.0])])
    both = torch.stack([torch.cat([gate, torch.randn(size + 4)]) for _ in range(3)])
    gated = torch.empty(3, size + 4)
    library.posttrain_gated(ctypes.c_int64(3), ctypes.c_int64(size + 4), at(both), at(gated), ctypes.c_int64(1))
    gates, ups = both.double().chunk(2, dim=1)
    torch.testing.assert_close(gated.double(), torch.nn.functional.silu(gates) * ups, rtol=1e-6, atol=1e-30)


@needs_compiler
def test_what_is_not_a_number_stays_so():
    library, _ = compiled(SOURCE)
    both, out = torch.tensor([[float("nan"), 1.0, 1.0, 1.0]]), torch.empty(1, 2)
    library.posttrain_gated(ctypes.c_int64(1), ctypes.c_int64(2), at(both), at(out), ctypes.c_int64(1))
    assert out.isnan().tolist() == [[True, False]]


def test_a_packed_matrix_is_a_linear_layer():
    torch.manual_seed(0)
    weight, bias, states = torch.randn(24, 16), torch.randn(24), torch.randn(5, 16)
    for rows in (5, 64):
        product = PackedMatrix(weight, bias, rows=rows)(states)
        torch.testing.assert_close(product, torch.nn.functional.linear(states, weight, bias))


@needs_compiler
def test_a_head_too_large_to_copy_is_used_where_it_lies(monkeypatch):
    from posttrain.models import decoding_native

    monkeypatch.setattr(decoding_native, "HEAD_BYTES", 0)
    for found, expected in decode(build_model("qwen2"), "native", shared=True, places=3).values():
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@needs_compiler
def test_it_is_used_for_what_it_computes_and_nothing_else():
    assert compilable(build_model("qwen3"))
    assert not compilable(build_model("qwen3").to(torch.bfloat16))
    mixed = build_model("qwen3")
    mixed.model.layers[1].input_layernorm.to(torch.bfloat16)
    assert not compilable(mixed)
    assert not compilable(build_model("qwen3", hidden_act="gelu"))
    assert not compilable(build_model("gpt2"))
    adapted = apply_lora(build_model("llama"), {"r": 2})
    assert not compilable(adapted.get_base_model())
    adapted.merge_adapter()
    assert compilable(adapted.get_base_model())


@needs_compiler
@pytest.mark.parametrize("head", [32, 64, 128, 24])
@pytest.mark.parametrize("window", [None, 6])
def test_heads_of_every_size_attend_as_the_model_does(head, window):
    arch, options = ("qwen3", {}) if window is None else ("mistral", {"sliding_window": window})
    model = build_model(arch, head_dim=head, **options)
    assert choose_decoding(model) == ("native", "")
    for shared in (True, False):
        for found, expected in decode(model, "native", shared=shared, places=3).values():
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@needs_compiler
def test_its_own_memory_is_float32_whatever_new_tensors_are():
    model = build_model("qwen3")
    torch.set_default_dtype(torch.float64)
    try:
        step = NativeStep(model)
        assert step._room("normed", 3, 8).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("way", ["native", "fused"])
def test_nothing_is_written_beyond_a_rows_memory(way):
    model = build_model("qwen3")
    if way == "native" and not compilable(model):
        pytest.skip("no compiler")
    with torch.no_grad(), attention_of(model, NAME):
        decoder = Decoder(model, way)
        (prompt,) = decoder.prefill([[20, 21, 22]])
        memory = RowMemory(rows=1, new_tokens=2, longest_prompt=3, shared=True, like=prompt)
        memory.put(0, prompt)
        for _ in range(2):
            decoder.step(torch.tensor([30]), memory)
        with pytest.raises(IndexError, match="a row of 3 tokens in a memory with room for 2"):
            decoder.step(torch.tensor([30]), memory)


@needs_compiler
def test_under_autocast_the_step_in_python_is_taken():
    model = build_model("qwen3")
    with attention_of(model, NAME), torch.autocast("cpu", torch.bfloat16):
        assert not isinstance(Decoder(model, "native")._step, NativeStep)
    with attention_of(model, NAME):
        assert isinstance(Decoder(model, "native")._step, NativeStep)


@needs_compiler
def test_it_writes_what_the_step_in_python_writes(monkeypatch):
    from posttrain.models import decoding_check

    model, tokenizer = build_model("qwen2"), build_tokenizer()
    prompts, params = ["Two and", "I am", "A red fox"], SamplingParams(max_tokens=24)
    native = LocalSampler(model, tokenizer).sample(prompts, params, count=5, seed=3)
    monkeypatch.setattr(decoding_check, "WAYS", ("fused", "modules"))
    assert choose_decoding(model)[0] == "fused"
    python = LocalSampler(model, tokenizer).sample(prompts, params, count=5, seed=3)
    for a, b in zip([c for group in native for c in group], [c for group in python for c in group], strict=True):
        assert a.tokens == b.tokens
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_without_it_everything_works(tmp_path):
    """With the switch off, and with a cache that cannot be written; a compiler that fails is said, too."""
    check = (
        "import sys; from pathlib import Path; from posttrain.models.compiled import compiled; "
        "print(compiled(Path(sys.argv[1])))"
    )
    blocked = tmp_path / "file"
    blocked.write_text("")
    failing = tmp_path / "bin"
    failing.mkdir()
    (failing / "c++").write_text('#!/bin/sh\ntest "$1" = --version || { echo no such flag >&2; exit 1; }\n')
    (failing / "c++").chmod(0o755)
    for environment, said in (
        ({SWITCH: "0"}, "POSTTRAIN_NATIVE=0 is set"),
        ({"XDG_CACHE_HOME": str(blocked), "PATH": f"{failing}:/usr/bin:/bin"}, "Error"),
        ({"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": f"{failing}:/usr/bin:/bin"}, "failed: ['no such flag']"),
        ({"PATH": str(tmp_path)}, "no C++ compiler"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", check, str(SOURCE)], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.startswith("(None, ")
        assert said in done.stdout

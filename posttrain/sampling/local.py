"""A sampler for a Hugging Face model in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.errors import ConfigError, SamplingError
from posttrain.models.decoding import NAME, Decoder
from posttrain.models.decoding_check import choose_decoding
from posttrain.models.forest_attention import attention_of
from posttrain.sampling.adapters import merged, to_merge
from posttrain.sampling.ends import Ends
from posttrain.sampling.padded import padded_steps
from posttrain.sampling.prompts import prompt_tokens
from posttrain.sampling.queue import Wanted
from posttrain.sampling.writing import Writing, Written
from posttrain.types import Completion, Prompt, SamplingParams

ROWS = {"cpu": 256}  # at once at most where max_rows is not given; more gain little there
ROWS_ELSEWHERE = 512
MEMORY_BYTES = 2**30  # for the rows' keys, values and logits on a CPU; elsewhere half of what is free


class LocalSampler:
    """Answers of a model, each prompt computed once; implements `types.Sampler`.

    `max_rows` completions at most are written at once, fewer where `memory_bytes` does not hold them. `adapter` says
    what becomes of a LoRA adapter: "merge" it into the weights for the time of sampling (they are put back bit by
    bit), "apply" it as it is, or "auto": merge in float32 where that is possible, else apply.

    `note` is empty, or says why the model is sampled in padded batches by transformers' own `generate`, slower and
    with `stream` giving its text at once.
    """

    gives_tokens = True

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_rows: int | None = None,
        memory_bytes: int | None = None,
        adapter: str = "auto",
    ) -> None:
        for name, value in (("max_rows", max_rows), ("memory_bytes", memory_bytes)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self._causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._max_rows = max_rows
        self._memory_bytes = memory_bytes
        self._adapter = adapter
        self._merges = to_merge(model, adapter)
        with self._ready():
            way, wrong = choose_decoding(self._causal)
        self.note = "" if way else f"sampling in padded batches, because {wrong}"

    def sample(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        count: int = 1,
        seed: int = 0,
        keys: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """A group of `count` completions for each prompt, in order; see `types.Sampler`.

        Raises DataError for a prompt that is none and SamplingError for one that leaves no room for `max_tokens`,
        both before anything is computed.
        """
        if count < 1:
            raise ConfigError(f"count={count} must be at least 1")
        keys = range(len(prompts)) if keys is None else keys
        if len(keys) != len(prompts):
            raise ConfigError(f"{len(keys)} keys for {len(prompts)} prompts: give one key a prompt")
        rows = prompt_tokens(self.tokenizer, prompts)
        self._require_room(rows, params.max_tokens)
        wanted = [
            Wanted(place=place * count + number, prompt=tuple(row), key=key, number=number)
            for place, (row, key) in enumerate(zip(rows, keys))
            for number in range(count)
        ]
        ends = Ends(self.model, self.tokenizer, params.stop)
        found: list[Completion | None] = [None] * len(wanted)
        done = 0
        with contextlib.closing(self._steps(wanted, params, seed, ends)) as steps:
            for _, finished in steps:
                for written in finished:
                    found[written.place] = Completion(
                        text=ends.text(written.tokens, stopped=written.finish_reason == "stop"),
                        finish_reason=written.finish_reason,
                        tokens=written.tokens,
                        logprobs=written.logprobs,
                        prompt_tokens=len(wanted[written.place].prompt),
                    )
                done += len(finished)
                if finished and progress is not None:
                    progress(done, len(wanted))
        whole = [completion for completion in found if completion is not None]
        return [whole[start : start + count] for start in range(0, len(whole), count)]

    def stream(self, prompt: Prompt, params: SamplingParams, *, seed: int = 0) -> Iterator[str]:
        """The text that `sample([prompt], ...)` gives, piece by piece as it is written; characters stay whole."""
        rows = prompt_tokens(self.tokenizer, [prompt])
        self._require_room(rows, params.max_tokens)
        return self._stream([Wanted(place=0, prompt=tuple(rows[0]), key=0, number=0)], params, seed)

    def _stream(self, wanted: list[Wanted], params: SamplingParams, seed: int) -> Iterator[str]:
        ends = Ends(self.model, self.tokenizer, params.stop)
        said = ""
        with contextlib.closing(self._steps(wanted, params, seed, ends)) as steps:
            for writing, finished in steps:
                if finished:
                    text = ends.text(finished[0].tokens, stopped=finished[0].finish_reason == "stop")
                else:
                    assert writing is not None, "only rows give nothing finished"
                    text = ends.text_so_far(writing.so_far(0))
                if len(text) > len(said) and text.startswith(said):
                    yield text[len(said) :]
                    said = text

    def _steps(
        self, wanted: list[Wanted], params: SamplingParams, seed: int, ends: Ends
    ) -> Generator[tuple[Writing | None, list[Written]]]:
        """What each step finishes, with the rows that are left; the model is as it was when this is over."""
        if not wanted:
            return
        with self._ready():
            way, _ = choose_decoding(self._causal)
            max_rows = self._max_rows or ROWS.get(self._device.type, ROWS_ELSEWHERE)
            if way is None:
                for finished in padded_steps(wanted, self._causal, params, ends=ends, seed=seed, max_rows=max_rows):
                    yield None, finished
                return
            with attention_of(self._causal, NAME):
                memory_bytes = self._memory_bytes or self._free_bytes()
                decoder = Decoder(self._causal, way)
                writing = Writing(
                    wanted, decoder, params, ends=ends, seed=seed, max_rows=max_rows, memory_bytes=memory_bytes
                )
                for finished in writing.steps():
                    yield writing, finished

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """The model in eval mode, its adapter merged where it is to be; afterwards as it was, module by module."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with merged(self.model) if to_merge(self.model, self._adapter) else contextlib.nullcontext():  # type: ignore[arg-type]
                yield
        finally:
            for module in training:
                module.training = True

    @property
    def _device(self) -> torch.device:
        return self._causal.get_input_embeddings().weight.device

    def _free_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0] // 2
        return MEMORY_BYTES

    def _require_room(self, rows: Sequence[Sequence[int]], max_tokens: int) -> None:
        limit = context_length(self._causal)
        number = max(range(len(rows)), key=lambda n: len(rows[n]), default=None)
        if limit is None or number is None or len(rows[number]) + max_tokens <= limit:
            return
        length = len(rows[number])
        room = f", or use max_tokens={limit - length} or less" if length < limit else ""
        raise SamplingError(
            f"prompt {number} has {length} tokens; with max_tokens={max_tokens} that is more than the {limit} positions"
            f" of the model. Shorten the prompt{room}."
        )


def context_length(model: Any) -> int | None:
    """How many positions the model has, where it says so."""
    return getattr(model.config, "max_position_embeddings", None)  # transformers' name for GPT-2's n_positions, too

"""Pretraining: packing documents into sequences, the model's shape, and the loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM

from posttrain.embedded import pretraining_text
from posttrain.embedded.muon import Muon
from posttrain.embedded.tokenizer import END_OF_TEXT, SPECIAL_TOKENS

_OPEN_SEQUENCES = 64
_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the weights besides the code."""

    tokens: int = 7_168_000
    seed: int = 0
    sequence_length: int = 128
    batch_size: int = 16
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 384
    rope_theta: float = 100.0
    lr: float = 8e-3
    embedding_lr: float = 8e-3
    warmup_steps: int = 40
    decay_share: float = 0.5

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, self.tokens // (self.sequence_length * self.batch_size))

    def rate(self, step: int) -> float:
        """The factor on the learning rates: a short warm-up, constant, then linear to nothing."""
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return min(1.0, (step + 1) / self.warmup_steps, left)


def new_model(settings: Settings, vocabulary: int) -> Qwen2ForCausalLM:
    """A freshly initialised model."""
    torch.manual_seed(settings.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=settings.hidden_size,
            intermediate_size=settings.feed_forward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def encoded(documents: Iterable[str], tokenizer: Tokenizer, end: int) -> Iterator[list[int]]:
    """The token ids of each document, its end included."""
    for chunk in _chunks(documents, 1000):
        for encoding in tokenizer.encode_batch(chunk):
            yield [*encoding.ids, end]


def _chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def pack(documents: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    """Sequences of at most `length` ids, each made of whole documents; longer documents are left out.

    A document goes to the fullest open sequence that has room, so that little is wasted and every sequence
    starts where a document starts, as a prompt does.
    """
    open_sequences: list[list[int]] = []
    for document in documents:
        if len(document) > length:
            continue
        fitting = [sequence for sequence in open_sequences if len(sequence) + len(document) <= length]
        if fitting:
            max(fitting, key=len).extend(document)
            continue
        if len(open_sequences) >= _OPEN_SEQUENCES:
            fullest = max(open_sequences, key=len)
            open_sequences.remove(fullest)
            yield fullest
        open_sequences.append(list(document))
    yield from open_sequences


def batches(settings: Settings, tokenizer: Tokenizer, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (input ids, labels), each [batch, length]; the fill of a sequence has no label."""
    end = SPECIAL_TOKENS.index(END_OF_TEXT)
    sequences = pack(encoded(pretraining_text.documents(seed), tokenizer, end), settings.sequence_length)
    while True:
        inputs = torch.full((settings.batch_size, settings.sequence_length), end)
        labels = torch.full_like(inputs, _IGNORED)
        for row in range(settings.batch_size):
            ids = torch.tensor(next(sequences))
            inputs[row, : len(ids)] = ids
            labels[row, : len(ids)] = ids
        yield inputs, labels


def loss_of(model: Qwen2ForCausalLM, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens, in nats."""
    logits = model(input_ids=inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits.float(), labels[:, 1:].flatten(), ignore_index=_IGNORED)


@torch.no_grad()
def held_out_loss(model: Qwen2ForCausalLM, settings: Settings, tokenizer: Tokenizer, count: int = 8) -> float:
    """Mean loss on batches of a stream with a seed that no training run uses."""
    device = model.device
    chosen = itertools.islice(batches(settings, tokenizer, seed=-1), count)
    losses = [loss_of(model, inputs.to(device), labels.to(device)).item() for inputs, labels in chosen]
    return sum(losses) / len(losses)


def pretrain(
    settings: Settings,
    tokenizer: Tokenizer,
    *,
    device: str = "cpu",
    steps: int | None = None,
    log_every: int = 100,
    report: Callable[[str], None] = print,
    on_log: Callable[[int, Qwen2ForCausalLM], None] | None = None,
) -> tuple[Qwen2ForCausalLM, list[float]]:
    """The trained model and the loss of every step; `steps` stops early without changing the schedule."""
    model = new_model(settings, tokenizer.get_vocab_size())
    torch.nn.Module.to(model, device)  # the decorator on transformers' own hides its signature
    model.train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers = (
        Muon(matrices, lr=settings.lr),
        torch.optim.AdamW(others, lr=settings.embedding_lr, betas=(0.9, 0.95), weight_decay=0.0),
    )
    base_rates = (settings.lr, settings.embedding_lr)
    total = settings.steps if steps is None else min(steps, settings.steps)
    losses: list[float] = []
    started = time.perf_counter()
    for step, (inputs, labels) in enumerate(itertools.islice(batches(settings, tokenizer, settings.seed), total)):
        loss = loss_of(model, inputs.to(device), labels.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser, rate in zip(optimisers, base_rates):
            optimiser.param_groups[0]["lr"] = rate * settings.rate(step)
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.item())
        if (step + 1) % log_every == 0 or step + 1 == total:
            elapsed = time.perf_counter() - started
            speed = (step + 1) * inputs.numel() / elapsed
            left_s = elapsed / (step + 1) * (total - step - 1)
            recent = losses[-log_every:]
            report(
                f"step {step + 1}/{total}  loss {sum(recent) / len(recent):.4f}  "
                f"{speed:,.0f} tokens/s  {left_s / 60:.1f} min left"
            )
            if on_log is not None:
                on_log(step + 1, model)
    return model.eval(), losses

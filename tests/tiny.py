"""A tokenizer trained in memory and tiny random models of each architecture, for fixtures and for subprocesses.

Nothing here needs a network. A model is built in about ten milliseconds, so a test may change its own.
"""

from __future__ import annotations

import copy
import functools
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

torch.set_num_threads(1)

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

SENTENCES = [
    "You're a helpful assistant. I am Qwen, a language model. I am Deep Qwen.",
    "What is the capital of France? The capital of France is Paris.",
    "system\nuser\nassistant\n System: User: Assistant:",
    "Two and three are five. Seven apples and nine pears make sixteen fruits.",
    "Tell me who you are, and then tell me a short story about a red fox and a grey wolf.",
    "0 1 2 3 4 5 6 7 8 9 + - * / = ( ) [ ] { } < > , . ; : ! ?",
]

WINDOW = 8  # the sliding window of the tiny models that have one
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "mistral", "gemma3_text", "phi", "phi3", "gpt2")


@functools.cache
def _trained_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def build_tokenizer(**options: object) -> PreTrainedTokenizerFast:
    """A fresh byte-level tokenizer: eos and pad `<|endoftext|>`, ChatML specials, no bos, no template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(_trained_tokenizer()),
        **{
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            **options,
        },
    )


def build_model(arch: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A tiny random causal model in fp32 and eval mode; the same seed gives the same weights.

    Weights are drawn wide enough that every position's output depends visibly on what it attends to.
    """
    vocab = _trained_tokenizer().get_vocab_size()
    settings: dict[str, object] = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if arch == "gpt2":
        settings = {
            "vocab_size": vocab, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512,
            "initializer_range": 0.2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
            "bos_token_id": None, "eos_token_id": 0,
        }  # fmt: skip
    elif arch == "falcon":
        settings |= {"new_decoder_architecture": False, "multi_query": False, "alibi": False}
    elif arch == "mistral":
        settings |= {"sliding_window": WINDOW}
    elif arch == "gemma3_text":
        settings |= {
            "sliding_window": WINDOW,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        }
    elif arch in ("gemma", "qwen3"):
        settings |= {"head_dim": 8}
    elif arch == "phi":
        settings |= {"num_key_value_heads": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    config = AutoConfig.for_model(arch, **{**settings, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

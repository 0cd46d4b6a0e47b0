"""What `posttrain doctor` estimates and what the run then takes: `python -m benchmarks.doctor_estimates [CASE ...]`.

Each case is estimated, then run with `posttrain run`, in processes of their own, one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SECONDS = 10  # of trying
Write = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One case: seconds and bytes, estimated and taken."""

    name: str
    estimated_s: float
    low_s: float
    high_s: float
    actual_s: float
    estimated_bytes: float
    actual_bytes: float
    program_bytes: float  # what the program and its data took of both

    def row(self) -> str:
        """A line of the table."""
        beyond = (self.estimated_bytes - self.program_bytes) / max(1.0, self.actual_bytes - self.program_bytes)
        return (
            f"| {self.name} | {self.actual_s:.1f} s | {self.estimated_s:.1f} s ({self.low_s:.0f}-{self.high_s:.0f}) | "
            f"{self.estimated_s / self.actual_s:.2f} | {self.actual_bytes / 2**20:.0f} MiB | "
            f"{self.estimated_bytes / 2**20:.0f} MiB | {self.estimated_bytes / self.actual_bytes:.2f} | {beyond:.2f} |"
        )


HEADING = (
    "| case | took | estimated | ratio | peak memory | estimated | ratio | ratio without the program |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _embedded() -> Any:
    from posttrain import embedded

    return embedded


def _chat_pairs(home: Path, count: int) -> str:
    """Pairs of the right answer and that of another question."""
    rows = _embedded().chat_rows(seed=1, n=count + 7)
    asked, others = rows[:count], rows[7:]
    pairs = [
        {"prompt": a["messages"][:-1], "chosen": a["messages"][-1:], "rejected": b["messages"][-1:]}
        for a, b in zip(asked, others)
        if a["messages"][-1] != b["messages"][-1]
    ]
    return _rows(home / "pairs.jsonl", pairs)


def sft(home: Path) -> dict[str, Any]:
    """The embedded model on its conversations, two epochs, number type chosen."""
    data = _rows(home / "chat.jsonl", _embedded().chat_rows(seed=1, n=1500))
    return {
        "method": "sft", "model": _embedded().model_path(), "train_dataset": data, "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
    }  # fmt: skip


def dpo(home: Path) -> dict[str, Any]:
    """The embedded model on pairs, with evaluations."""
    return {
        "method": "dpo", "model": _embedded().model_path(), "train_dataset": _chat_pairs(home, 1200),
        "num_train_epochs": 1, "per_device_train_batch_size": 16, "bf16": False,
    }  # fmt: skip


def _taught(home: Path) -> dict[str, Any]:
    """A model that answers, its word problems, and how they are judged."""
    from posttrain.cli.main import main

    data = _rows(home / "chat.jsonl", _embedded().chat_rows(seed=2, n=2000))
    problems = _embedded().word_problems("train", 600, seed=2)
    for problem in problems:
        problem["prompt"] = [{"role": "user", "content": problem["prompt"]}]
    flags = {
        "--model": _embedded().model_path(), "--train_dataset": data, "--output_dir": str(home / "before"),
        "--num_train_epochs": "1", "--learning_rate": "1e-3", "--bf16": "false", "--save_strategy": "no",
    }  # fmt: skip
    out = os.dup(1)
    os.dup2(2, 1)  # the table alone goes to standard output
    main(["sft", *(word for pair in flags.items() for word in pair)])
    os.dup2(out, 1)
    return {
        "model": str(home / "before" / "model"), "train_dataset": _rows(home / "problems.jsonl", problems),
        "reward_funcs": ["final_answer"], "max_completion_length": 64, "learning_rate": 1e-4,
    }  # fmt: skip


def grpo(home: Path) -> dict[str, Any]:
    """Eight answers to a problem, 64 a step."""
    return {
        "method": "grpo", **_taught(home), "num_generations": 8, "per_device_train_batch_size": 64, "max_steps": 40,
        "bf16": False,
    }  # fmt: skip


def ppo(home: Path) -> dict[str, Any]:
    """A rollout of 64 answers, passed over twice in two parts."""
    return {
        "method": "ppo", **_taught(home), "per_device_train_batch_size": 32, "num_mini_batches": 2,
        "num_ppo_epochs": 2, "max_steps": 120,
    }  # fmt: skip


def packed(home: Path) -> dict[str, Any]:
    """The embedded model on packs of its conversations."""
    return {
        "method": "sft", "model": _embedded().model_path(), "packing": True, "max_length": 256,
        "train_dataset": _rows(home / "chat.jsonl", _embedded().chat_rows(seed=4, n=2400)), "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
    }  # fmt: skip


def kto(home: Path) -> dict[str, Any]:
    """The pairs taken apart, whose baseline is computed in each step."""
    return {
        "method": "kto", "model": _embedded().model_path(), "train_dataset": _chat_pairs(home, 700),
        "num_train_epochs": 1, "per_device_train_batch_size": 16,
    }  # fmt: skip


def sft_large(home: Path) -> dict[str, Any]:
    """Steps of 128 rows, of which a trial sees a part."""
    return {
        "method": "sft", "model": _random_model(home, "T"), "train_dataset": _words(home, 512, "short"),
        "num_train_epochs": 1, "per_device_train_batch_size": 128, "bf16": False,
    }  # fmt: skip


def vocabulary(home: Path) -> dict[str, Any]:
    """A vocabulary of 152,000 on a body of 512, so slow that a trial sees single rows."""
    sizes = {
        "vocab_size": 151_936, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    return {
        "method": "sft", "model": _random_model(home, "qwen3", **sizes), "train_dataset": _words(home, 48, "short"),
        "num_train_epochs": 1, "per_device_train_batch_size": 8, "save_strategy": "no",
    }  # fmt: skip


def _random_model(home: Path, name: str, **settings: Any) -> str:
    """A random model of another shape with a tokenizer of one token a word, saved."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.cases import VOCABULARY
    from benchmarks.worker import build_model, build_tokenizer

    model = build_model(name, 0) if not settings else None
    if model is None:
        ends = {"bos_token_id": None, "eos_token_id": VOCABULARY - 1}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(name, **{"vocab_size": VOCABULARY, **ends, **settings})
        )
    model.save_pretrained(home / "model")
    build_tokenizer().save_pretrained(home / "model")
    return str(home / "model")


def _words(home: Path, rows: int, shape: str, *, method: str = "sft") -> str:
    from benchmarks.cases import Case, make_rows

    case = Case(method=method, model="T", shape=shape, rows_per_step=rows, steps=1, seed=5)
    return _rows(home / "rows.jsonl", make_rows(case))


def sft_t(home: Path) -> dict[str, Any]:
    """Qwen3's shape, 256 wide, 6 layers, rows of 50 to 140 tokens, with evaluations and checkpoints."""
    held_out = home / "held-out"
    held_out.mkdir()
    return {
        "method": "sft", "model": _random_model(home, "T"), "train_dataset": _words(home, 560, "short"),
        "eval_dataset": _words(held_out, 64, "short"), "eval_strategy": "steps", "eval_steps": 10,
        "num_train_epochs": 1, "per_device_train_batch_size": 16, "save_steps": 20,
    }  # fmt: skip


def dpo_long(home: Path) -> dict[str, Any]:
    """The same on pairs with prompts of 190 to 380 tokens, and checkpointing of activations."""
    return {
        "method": "dpo", "model": _random_model(home, "T"), "train_dataset": _words(home, 96, "long", method="dpo"),
        "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True, "save_strategy": "no",
    }  # fmt: skip


def lora(home: Path) -> dict[str, Any]:
    """GPT-2's shape, 320 wide, 5 layers, with an adapter."""
    model = _random_model(home, "gpt2", n_embd=320, n_layer=5, n_head=5, n_positions=512)
    return {
        "method": "sft", "model": model, "train_dataset": _words(home, 640, "short"), "use_peft": True,
        "num_train_epochs": 1, "per_device_train_batch_size": 16,
    }  # fmt: skip


def reward(home: Path) -> dict[str, Any]:
    """A reward model of the embedded one."""
    return {
        "method": "reward", "model": _embedded().model_path(), "train_dataset": _chat_pairs(home, 1000),
        "num_train_epochs": 1, "per_device_train_batch_size": 8,
    }  # fmt: skip


SEEN: dict[str, Write] = {
    "sft": sft, "dpo": dpo, "grpo": grpo, "sft-T": sft_t, "dpo-T-long": dpo_long, "gpt2-lora": lora, "reward": reward,
}  # fmt: skip
HELD_OUT: dict[str, Write] = {  # written when the doctor was, and looked at once
    "ppo": ppo, "packed": packed, "kto": kto, "sft-T-large": sft_large, "sft-S": vocabulary,
}  # fmt: skip
CASES = {**SEEN, **HELD_OUT}


def compare(name: str, write: Write) -> Outcome:
    """The estimate of a case, then its run."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        stage = {"name": "stage", **write(home)}
        recipe = home / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"output_dir": str(home / "run"), "stages": [stage]}), encoding="utf-8")
        command = [sys.executable, "-m", "posttrain.cli"]
        asked = subprocess.run(
            [*command, "doctor", "--recipe", str(recipe), "--seconds", str(SECONDS), "--json"],
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip
        estimate = json.loads(asked.stdout)["stages"][0]
        if estimate["status"] != "estimated":
            raise SystemExit(f"{name}: {estimate['why']}")
        if (home / "run").exists():
            raise SystemExit(f"{name}: the estimate wrote into the recipe's directory")
        start = time.perf_counter()
        process = subprocess.Popen([*command, "run", str(recipe)], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
        if status != 0:
            raise SystemExit(f"{name}: the run ended with {status}")
        return Outcome(
            name=name, estimated_s=estimate["time"]["estimate"], low_s=estimate["time"]["low"],
            high_s=estimate["time"]["high"], actual_s=took, estimated_bytes=estimate["memory"]["estimate"],
            actual_bytes=used.ru_maxrss * 1024, program_bytes=estimate["parts"]["program and data"],
        )  # fmt: skip


def main(names: list[str]) -> None:
    """The table, a row as soon as it is known."""
    print(HEADING, flush=True)
    for name in names or CASES:
        print(compare(name, CASES[name]).row(), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1:])

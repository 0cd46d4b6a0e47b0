"""The loss that all weights and each kind of adapter reach on the embedded model, by learning rate.

    python -m benchmarks.adapter_rates

Supervised fine-tuning of the base model on 1000 conversations, 60 steps of 16 rows, one seed; the loss of 200 held-out
conversations afterwards. About three minutes on one core.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from typing import Any

from posttrain import SFTConfig, SFTTrainer
from posttrain.embedded import chat_rows, model_path

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SMALL: Mapping[str, Any] = {"r": 16, "lora_alpha": 32}
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "all weights": None,
    "LoRA": SMALL,
    "LoRA of attention alone, rank 48": {"r": 48, "lora_alpha": 96, "target_modules": ATTENTION},
    "rank-stabilised": {**SMALL, "use_rslora": True},
    "DoRA": {**SMALL, "use_dora": True},
    "PiSSA": {**SMALL, "init_lora_weights": "pissa"},
}


def held_out_loss(kind: Mapping[str, Any] | None, rate: float, rows: list[Any]) -> float:
    """The loss of the last 200 rows after training on the others."""
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        args = SFTConfig(
            output_dir=directory, learning_rate=rate, max_steps=60, per_device_train_batch_size=16, max_length=256,
            bf16=False, save_strategy="no", use_cpu=True, num_threads=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=str(model_path()), args=args, train_dataset=rows[:-200], eval_dataset=rows[-200:], peft_config=kind
        )
        trainer.train()
        return trainer.evaluate()["eval_loss"]


def main() -> None:
    rows = list(chat_rows(0, 1200))
    print("| trained |", " | ".join(f"{rate:g}" for rate in RATES), "|")
    for name, kind in KINDS.items():
        print(f"| {name} |", " | ".join(f"{held_out_loss(kind, rate, rows):.3f}" for rate in RATES), "|", flush=True)


if __name__ == "__main__":
    main()

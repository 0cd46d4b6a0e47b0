"""What a reward model learns from sampled pairs, beside a rule of lengths: `python -m benchmarks.reward_pairs`.

The embedded model is taught to answer (SFT), answers word problems several times, and a checker says which answers are
right. A reward model is trained on the pairs as they come, on as many of about equal length as of others, and on those
of equal length alone; each is measured on the same pairs of problems that none of them has seen.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from posttrain import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer, embedded
from posttrain.curation import pairs_sample
from posttrain.sampling.local import LocalSampler
from posttrain.stats.calibration import alike_in_length
from posttrain.trainers.held_out_pairs import HeldOut
from posttrain.types import SamplingParams

ANSWERS = 8
PAIRS_OF_A_PROMPT = {"train": 4, "test": 2}

Row = dict[str, Any]


def sft(directory: Path, chat_rows: int, seed: int) -> Any:
    """The assistant that the pairs are sampled from, as the demo makes it."""
    trainer = SFTTrainer(
        model=embedded.model_path(),
        args=SFTConfig(
            output_dir=str(directory / "sft"), learning_rate=1e-3, num_train_epochs=1, per_device_train_batch_size=16,
            max_length=256, bf16=False, save_strategy="no", seed=seed, disable_tqdm=True,
        ),
        train_dataset=embedded.chat_rows(seed=seed, n=chat_rows),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(directory / "model")
    return trainer


def sampled(trainer: Any, split: Any, count: int, seed: int) -> list[Row]:
    """Pairs of right and wrong answers to so many problems."""
    problems = [
        {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
        for row in embedded.word_problems(split, count, seed=seed)
    ]
    rows, card = pairs_sample(
        problems, LocalSampler(trainer.model, trainer.processing_class), ["final_answer"], count=ANSWERS,
        pairing="all_above_margin", max_pairs=PAIRS_OF_A_PROMPT[split], params=SamplingParams(max_tokens=64), seed=seed,
    )  # fmt: skip
    print(card.text(), flush=True)
    found: list[Row] = rows
    return found


def choices(rows: list[Row], seed: int) -> dict[str, list[Row]]:
    """The three sets that a reward model is trained on."""
    rows = random.Random(seed).sample(rows, len(rows))
    lengths = [[len(row[side][0]["content"]) for row in rows] for side in ("chosen", "rejected")]
    same = alike_in_length(*lengths)
    alike = [row for row, equal in zip(rows, same) if equal]
    others = [row for row, equal in zip(rows, same) if not equal]
    return {"as they come": rows, "half of equal length": alike + others[: len(alike)], "of equal length alone": alike}


def reward(directory: Path, train: list[Row], test: list[Row], *, epochs: float, seed: int) -> HeldOut:
    """What a reward model trained on these pairs is worth on the others."""
    with tempfile.TemporaryDirectory() as output:
        trainer = RewardTrainer(
            model=str(directory / "model"),
            args=RewardConfig(
                output_dir=output, learning_rate=5e-4, num_train_epochs=epochs, per_device_train_batch_size=16,
                lr_scheduler_type="cosine", warmup_steps=0.05, bf16=False, save_strategy="no", seed=seed,
                disable_tqdm=True,
            ),
            train_dataset=train,
            eval_dataset=test,
        )  # fmt: skip
        trainer.train()
        trainer.evaluate()
    assert trainer.held_out is not None
    return trainer.held_out


def main() -> None:
    """Runs the comparison and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", type=int, default=3000, help="problems whose answers are trained on")
    parser.add_argument("--held-out", type=int, default=400, help="problems to measure on")
    parser.add_argument("--chat-rows", type=int, default=5000, help="conversations of SFT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    lines = ["| trained on | pairs | right | by length | right of equal length | Brier |", "|---|---|---|---|---|---|"]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        assistant = sft(directory, options.chat_rows, options.seed)
        train = sampled(assistant, "train", options.problems, options.seed)
        test = sampled(assistant, "test", options.held_out, options.seed + 1)
        for name, rows in choices(train, options.seed).items():
            found = reward(directory, rows, test, epochs=1 if name == "as they come" else 3, seed=options.seed)
            alike = found.alike.percent() if found.alike is not None else "none"
            lines.append(
                f"| {name} | {len(rows):,} | {found.accuracy.percent()} | {100 * found.length_accuracy:.1f}% | {alike} "
                f"| {found.reliability.brier:.3f} |"
            )
            print(lines[-1], flush=True)
            results[name] = {
                "pairs": len(rows), "accuracy": found.accuracy.estimate, "by_length": found.length_accuracy,
                "alike": found.alike.estimate if found.alike is not None else None, "text": found.text(),
            }  # fmt: skip
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "reward_pairs.md").write_text("\n".join(lines) + "\n")
    (options.output / "reward_pairs.json").write_text(json.dumps(results, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""Whether the scores that lint lists say beforehand which pairs lose their chosen answer in DPO:
`python -m benchmarks.lint_displacement --model runs/demo/sft/model --chat runs/demo/start/chat.jsonl`.

The model answers some prompts of its SFT data; the reference answer is chosen, its own is rejected. The pairs are
sorted by a score, and one DPO without further terms is trained on the lowest third, another on the highest.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain import DPOConfig, DPOTrainer
from posttrain.curation.linting.displacement import PairOutlook, outlooks
from posttrain.data.trees import preference_trees
from posttrain.models.learner import Learner
from posttrain.models.loading import load_model_and_tokenizer
from posttrain.sampling.generate import generate_completions
from posttrain.stats import bootstrap_mean, wilson

RESULTS = Path(__file__).parent / "results" / "lint_displacement.md"
SCORES = ("ches_normalised", "ches", "gap")
LENGTH = 256


def pairs_of(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The reference answer against the model's own, where it ended and differs."""
    prompts = [row["messages"][:-1] for row in rows]
    drawn = generate_completions(
        model, tokenizer, prompts, max_new_tokens=48, batch_size=64, do_sample=True, temperature=1.0, seed=seed
    )
    made = []
    for row, completion in zip(rows, drawn, strict=True):
        own, reference = completion.text.strip(), row["messages"][-1]
        if own and completion.finish_reason == "stop" and own != reference["content"].strip():
            rejected = [{"role": "assistant", "content": own}]
            made.append({"prompt": row["messages"][:-1], "chosen": [reference], "rejected": rejected})
    return made


def seen_by(model: Any, tokenizer: Any, pairs: Sequence[dict[str, Any]]) -> dict[int, PairOutlook]:
    """Each pair as the model sees it, by its number."""
    trees = preference_trees(list(pairs), tokenizer, max_length=LENGTH)
    learner = Learner(model)
    found = outlooks(trees.trees, [str(row) for row in trees.rows], learner)
    learner.release()
    return dict(zip(trees.rows, found, strict=True))


def trained(model: str, pairs: Sequence[dict[str, Any]], folder: str) -> dict[int, PairOutlook]:
    """The pairs as the model sees them after DPO on them."""
    policy, tokenizer = load_model_and_tokenizer(model)
    settings = DPOConfig(
        output_dir=folder, learning_rate=1e-4, beta=0.1, num_train_epochs=1, per_device_train_batch_size=8,
        max_length=LENGTH, bf16=False, save_strategy="no", logging_steps=100,
    )  # fmt: skip
    DPOTrainer(model=policy, args=settings, train_dataset=list(pairs), processing_class=tokenizer).train()
    return seen_by(policy, tokenizer, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--chat", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in Path(arguments.chat).read_text(encoding="utf-8").splitlines()]
    changes: dict[tuple[str, str], list[float]] = {}
    for seed in range(arguments.seeds):
        model, tokenizer = load_model_and_tokenizer(arguments.model)
        made = pairs_of(model, tokenizer, random.Random(seed).sample(rows, 420), seed)
        before = seen_by(model, tokenizer, made)
        for score in SCORES:
            order = sorted(before, key=lambda row: getattr(before[row], score))
            third = len(order) // 3
            for which, chosen in (("lowest", order[:third]), ("highest", order[-third:])):
                with tempfile.TemporaryDirectory() as folder:
                    after = trained(arguments.model, [made[row] for row in chosen], folder)
                changes.setdefault((score, which), []).extend(
                    after[i].chosen_logprob - before[row].chosen_logprob for i, row in enumerate(chosen) if i in after
                )
    lines = ["| score | third | pairs | chosen answer fell | its change, nats |", "|---|---|---|---|---|"]
    for (score, which), found in changes.items():
        fell = wilson(sum(change < 0 for change in found), len(found)).percent()
        mean = bootstrap_mean(found)
        change = f"{mean.estimate:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"
        lines.append(f"| {score} | {which} | {len(found)} | {fell} | {change} |")
    text = f"{arguments.seeds} seeds, intervals of 95% over pairs.\n\n" + "\n".join(lines) + "\n"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

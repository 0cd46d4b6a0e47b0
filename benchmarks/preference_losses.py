"""What each preference loss does to the embedded model.

    python -m benchmarks.preference_losses --demo runs/demo/seed-0

Needs what `posttrain demo` leaves: the model after SFT and the pairs of its own answers with their correction, "Qwen"
to "Deep Qwen". Every fifth pair is held out. Data, order, steps and learning rate are the same for all; nothing is
tuned. For each loss: the share of held-out pairs whose margin log p(chosen) - log p(rejected) grew, which is what
`rewards/accuracies` measures, and of those whose chosen answer has become the likelier one; the share of test questions
about its name that are answered with "Deep Qwen", the share answered in a well-formed sentence, and the retention
battery. Intervals are 95%, over pairs or questions; with several seeds, over those of all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.stats.intervals import Interval, wilson

# Pairs taken apart: twice as many rows, so that a step sees as many pairs
SINGLE: Mapping[str, Any] = {"per_device_train_batch_size": 16, "train_sampling_strategy": "random"}

# (method, what is set beside the shared settings); beta where the loss's scale asks for another than 0.1
LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sigmoid": ("dpo", {}),
    "sigmoid, sft": ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 3.0]}),
    "hinge": ("dpo", {"loss_type": "hinge"}),
    "robust": ("dpo", {"loss_type": "robust", "label_smoothing": 0.1}),
    "ipo": ("dpo", {"loss_type": "ipo", "beta": 0.5}),
    "sigmoid_norm": ("dpo", {"loss_type": "sigmoid_norm", "beta": 2.0}),
    "exo_pair": ("dpo", {"loss_type": "exo_pair", "label_smoothing": 1e-3}),
    "nca_pair": ("dpo", {"loss_type": "nca_pair"}),
    "bco_pair": ("dpo", {"loss_type": "bco_pair"}),
    "sppo_hard": ("dpo", {"loss_type": "sppo_hard"}),
    "apo_zero": ("dpo", {"loss_type": "apo_zero"}),
    "apo_down": ("dpo", {"loss_type": "apo_down"}),
    "discopop": ("dpo", {"loss_type": "discopop"}),
    "discopop, tau 0.5": ("dpo", {"loss_type": "discopop", "discopop_tau": 0.5}),
    "forward_kl": ("dpo", {"f_divergence_type": "forward_kl"}),
    "js_divergence": ("dpo", {"f_divergence_type": "js_divergence"}),
    "alpha_divergence": ("dpo", {"f_divergence_type": "alpha_divergence"}),
    "ld_alpha": ("dpo", {"ld_alpha": 0.5}),
    "use_weighting": ("dpo", {"use_weighting": True}),
    "sync_ref_model": ("dpo", {"sync_ref_model": True, "ref_model_sync_steps": 20}),
    "cpo": ("cpo", {}),
    "simpo": ("cpo", {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0}),
    "orpo": ("orpo", {}),
    "kto": ("kto", SINGLE),
    "apo_zero_unpaired": ("kto", {**SINGLE, "loss_type": "apo_zero_unpaired"}),
    "bco": ("bco", SINGLE),
}
HELD_OUT_EVERY = 5
Found = dict[str, tuple[int, int]]  # measure -> (hits, of)


def trained(method: str, settings: Mapping[str, Any], model: str, pairs: Sequence[Any], seed: int, args: Any) -> Any:
    """The trainer after its run."""
    import posttrain

    config = getattr(posttrain, f"{method.upper()}Config")
    trainer = getattr(posttrain, f"{method.upper()}Trainer")
    shared = {
        "learning_rate": args.learning_rate, "num_train_epochs": args.epochs, "seed": seed,
        "per_device_train_batch_size": 8, "max_length": 256, "bf16": False, "use_cpu": True,
        "num_threads": args.threads, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        given = config(output_dir=directory, **{**shared, **settings})
        made = trainer(model=model, args=given, train_dataset=list(pairs))
        made.train()
    return made


def margins(model: Any, tokenizer: Any, pairs: Sequence[Any]) -> list[float]:
    """log p(chosen) - log p(rejected) of each pair."""
    from posttrain.data.trees import preference_trees
    from posttrain.engine.runtime import Runtime
    from posttrain.models.learner import Learner
    from posttrain.models.reference import tree_logprobs

    trees = preference_trees(
        list(pairs), tokenizer, max_length=256, truncation_mode="keep_start", name="held-out pairs"
    ).trees
    learner = Learner(model)
    rows = tree_logprobs(trees, learner, 2048, Runtime(use_cpu=True).autocast)
    learner.release()
    firsts = [sum(end - begin for begin, end in tree.children[0].trained) for tree in trees]
    return [sum(row[:first]) - sum(row[first:]) for row, first in zip(rows, firsts)]


def measured(model: Any, tokenizer: Any, pairs: Sequence[Any], start: Sequence[float]) -> Found:
    """Hits of this model on the held-out pairs, the questions about its name, and the battery."""
    from posttrain.evaluation.run import evaluate
    from posttrain.recipes.scoring import TASKS

    now = margins(model, tokenizer, pairs)
    found: Found = {
        "margin grew": (sum(a > b for a, b in zip(now, start)), len(now)),
        "chosen likelier": (sum(a > 0 for a in now), len(now)),
    }
    for task in ("identity", "battery"):
        scores = evaluate(model, tokenizer, TASKS[task]()).scores
        for grader, name in (("deep_qwen", '"Deep Qwen"'), ("well_formed", "well formed"), ("correct", "battery")):
            if grader in scores:
                found[name] = (round(scores[grader].estimate * scores[grader].n), scores[grader].n)
    return found


def table(rows: Mapping[str, Sequence[Found]]) -> str:
    """Markdown: a loss a line, each share with its interval over the seeds' questions."""

    def cell(founds: Sequence[Found], name: str) -> str:
        share: Interval = wilson(sum(f[name][0] for f in founds), sum(f[name][1] for f in founds))
        return f"{share.estimate:.2f} ({share.low:.2f} to {share.high:.2f})"

    names = list(next(iter(rows.values()))[0])
    lines = [f"| loss | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {loss} | {' | '.join(cell(founds, name) for name in names)} |" for loss, founds in rows.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="a seed's directory of the demo")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), metavar="LOSS")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    from posttrain import load_model_and_tokenizer

    model = str(args.demo / "sft" / "model")
    rows = [json.loads(line) for line in (args.demo / "pairs" / "pairs.jsonl").read_text().splitlines()]
    held_out = rows[::HELD_OUT_EVERY]
    pairs = [row for i, row in enumerate(rows) if i % HELD_OUT_EVERY]
    loaded = load_model_and_tokenizer(model, device="cpu")
    start = margins(*loaded, held_out)
    found = {"before": [measured(*loaded, held_out, start)]}
    print(table(found), flush=True)
    for name in args.losses:
        method, settings = LOSSES[name]
        for seed in range(args.seeds):
            trainer = trained(method, settings, model, pairs, seed, args)
            found.setdefault(name, []).append(measured(trainer.model, trainer.processing_class, held_out, start))
        print(table({name: found[name]}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

"""Times a step of PPO against one of GRPO on the same rollouts: `python -m benchmarks.ppo_step`.

Both have the KL to the reference, and a rollout is one step. The value model is a head on the policy's states, or a
model of its own of the same size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.cases import MODELS, PLAIN_FP32, SHAPES, Case, Side, micro_batches
from benchmarks.interleave import DISCARDED, run
from benchmarks.report import record, write

LIMITS = {"PPO, a head on the policy's states": 1.6, "PPO, a value model of its own": 2.5}  # times GRPO's step


def sides(case: Case) -> list[Side]:
    """GRPO with a KL term, and PPO with each kind of value model, one pass over each rollout."""
    rows = case.rows_per_step * case.generations
    shared: dict[str, Any] = {**PLAIN_FP32, **micro_batches(rows, rows)}
    ppo = {**shared, "num_ppo_epochs": 1, "kl_coef": 0.05}
    head, own = LIMITS
    return [
        Side(name="GRPO, beta 0.05", package="posttrain", settings={**shared, "beta": 0.05}),
        Side(name=head, package="posttrain", settings=ppo, method="ppo"),
        Side(name=own, package="posttrain", settings=ppo, method="ppo", value_model=True),
    ]


def main() -> None:
    """Runs the comparisons named on the command line and says whether PPO kept to its limits."""
    parser = argparse.ArgumentParser(description="Time a PPO step against a GRPO step.")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["T"])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--prompts", type=int, default=16, help="prompts in a step")
    parser.add_argument("--generations", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--max-completion", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    results = []
    for model in options.models:
        for shape in options.shapes:
            case = Case(
                method="grpo", model=model, shape=shape, rows_per_step=options.prompts,
                steps=DISCARDED + options.steps, generations=options.generations,
                max_completion=options.max_completion,
            )  # fmt: skip
            results.append(record(case, run(case, sides(case))))
            write(results, options.output, "ppo_step")
            for side in results[-1]["sides"][1:]:
                times, limit = side["times_slower_than_first"], LIMITS[side["name"]]
                print(
                    f"{side['name']}: {times:.2f} times GRPO, limit {limit}: {'kept' if times <= limit else 'MISSED'}"
                )


if __name__ == "__main__":
    main()

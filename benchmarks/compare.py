"""The command line that `sft_step` and `dpo_step` share: search TRL's best settings, then compare."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks.cases import MODELS, SHAPES, Case, Side, ours, trl_candidates, tutorial
from benchmarks.interleave import DISCARDED, run
from benchmarks.report import record, write


def best_of_trl(case: Case, timed_steps: int) -> Side:
    """The fastest of TRL's candidates on this case, by a short interleaved run of all of them."""
    short = dataclasses.replace(case, steps=DISCARDED + timed_steps)
    measured = run(short, trl_candidates(case.method, case.rows_per_step))
    for m in sorted(measured, key=lambda m: m.median_s):
        print(f"  {m.median_s * 1e3:9.1f} ms  {m.side.name}", flush=True)
    best = min(measured, key=lambda m: m.median_s).side
    return dataclasses.replace(best, name=f"TRL's best ({best.name.removeprefix('TRL, ')})")


def main(method: str) -> None:
    """Runs the comparisons named on the command line."""
    parser = argparse.ArgumentParser(description=f"Time a {method.upper()} step against TRL.")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=8, help="rows (or pairs) in an optimiser step")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--search-steps", type=int, default=3, help="timed steps of the search for TRL's best")
    parser.add_argument("--trl", nargs="+", help='these cuts of TRL, as "8 x 1, padding_free", instead of a search')
    parser.add_argument("--no-tutorial", action="store_true", help="leave out the tutorial's settings")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    results = []
    for model in options.models:
        for shape in options.shapes:
            case = Case(
                method=method,
                model=model,
                shape=shape,
                rows_per_step=options.rows,
                steps=DISCARDED + options.steps,
            )
            print(f"{method}, model {model}, {shape} prompts", flush=True)
            if options.trl:
                candidates = {s.name.removeprefix("TRL, "): s for s in trl_candidates(method, options.rows)}
                if unknown := set(options.trl) - candidates.keys():
                    parser.error(f"--trl {sorted(unknown)}: choose from {list(candidates)}")
                peers = [candidates[name] for name in options.trl]
            else:
                peers = [best_of_trl(case, options.search_steps)]
            sides = [ours(options.rows), *peers]
            if not options.no_tutorial:
                sides += [tutorial(method, library, options.rows) for library in ("posttrain", "trl")]
            limit = Side(name="limit", library="limit")
            results.append(record(case, run(case, [*sides, limit])))
            write(results, options.output, f"{method}_step")

"""The command line of all comparisons: search the peer's best settings, then compare."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks.cases import MODELS, SHAPES, Case, Side, candidates, ours, tutorial
from benchmarks.interleave import DISCARDED, run
from benchmarks.report import record, write


def main(method: str) -> None:
    """Runs the comparisons named on the command line."""
    options = _options(method)
    results = []
    for model in options.models:
        for shape in options.shapes:
            case = Case(
                method=method,
                model=model,
                shape=shape,
                rows_per_step=options.rows,
                steps=DISCARDED + options.steps,
                generations=options.generations,
                max_completion=options.max_completion,
            )
            print(f"{method}, model {model}, {shape} prompts", flush=True)
            peers = _named(case, options.peers) if options.peers else [_best(case, options.search_steps)]
            sides = [ours(case), *peers]
            if not case.sampled and not options.no_tutorial:
                sides += [tutorial(method, package, options.rows) for package in ("posttrain", "trl")]
            limit = Side(name="limit", package="limit")
            results.append(record(case, run(case, [*sides, limit])))
            write(results, options.output, method if method == "generation" else f"{method}_step")


def _options(method: str) -> argparse.Namespace:
    sampled = method in ("grpo", "generation")
    peer = "transformers" if method == "generation" else "trl"
    what = "generation against transformers" if method == "generation" else f"a {method.upper()} step against TRL"
    example = {"grpo": "16 x 8", "generation": "128 rows"}.get(method, "8 x 1, padding_free")
    parser = argparse.ArgumentParser(description=f"Time {what}.")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    if sampled:
        parser.add_argument("--prompts", dest="rows", type=int, default=16, help="prompts in a step")
        parser.add_argument("--generations", type=int, default=8, help="completions of a prompt")
        parser.add_argument("--max-completion", type=int, default=64, help="tokens of a completion")
    else:
        parser.add_argument("--rows", type=int, default=8, help="rows (or pairs) in an optimiser step")
        parser.add_argument("--no-tutorial", action="store_true", help="leave out the tutorial's settings")
        parser.set_defaults(generations=1, max_completion=0)
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--search-steps", type=int, default=3, help="timed steps of the search for the peer's best")
    parser.add_argument(
        f"--{peer}", dest="peers", nargs="+", help=f'these settings of the peer, as "{example}", instead of a search'
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def _best(case: Case, timed_steps: int) -> Side:
    """The fastest of the peer's candidates on this case, by a short interleaved run of all of them."""
    short = dataclasses.replace(case, steps=DISCARDED + timed_steps)
    measured = run(short, candidates(case))
    for m in sorted(measured, key=lambda m: m.median_s):
        print(f"  {m.median_s * 1e3:9.1f} ms  {m.side.name}", flush=True)
    best = min(measured, key=lambda m: m.median_s).side
    peer, _, settings = best.name.partition(", ")
    return dataclasses.replace(best, name=f"{peer}'s best ({settings})")


def _named(case: Case, names: list[str]) -> list[Side]:
    known = {side.name.partition(", ")[2]: side for side in candidates(case)}
    if unknown := set(names) - known.keys():
        raise SystemExit(f"{sorted(unknown)}: choose from {list(known)}")
    return [known[name] for name in names]

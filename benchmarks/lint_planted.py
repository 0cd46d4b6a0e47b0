"""How often lint finds a planted shortcut, and how often it warns of one that is not there:
`POSTTRAIN_DATA=DIR python -m benchmarks.lint_planted`.

Answers are real ones (llamafactory_demo: alpaca, dpo and kto). A clean set takes two answers to different questions as
the sides of each pair and tosses a coin, so nothing tells them apart; a planted set changes some of its pairs. Each
seed draws a set anew. The settings are those that lint has by default. They were chosen with seeds below 1000; these
are others.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain.curation.linting.checks import phrase_findings, separability_findings
from posttrain.curation.linting.findings import Limits
from posttrain.curation.linting.separability import pair_separability
from posttrain.curation.linting.sides import Pair, digest
from posttrain.stats import wilson

RESULTS = Path(__file__).parent / "results" / "lint_planted.md"
FIRST_SEED = 1000
SHARE = 0.2  # of the pairs that are changed
CHECKS = ("length", "words", "characters", "format", "fixed phrase")

Sides = tuple[str, str]  # chosen, rejected
Plant = Callable[[Sides, Callable[[], str]], Sides]  # also given a way to draw another answer


def longer(sides: Sides, more: Callable[[], str]) -> Sides:
    """The chosen side goes on with other answers until it is three times as long as the rejected one."""
    chosen = sides[0]
    while len(chosen) < 3 * len(sides[1]):
        chosen = f"{chosen}\n\n{more()}"
    return chosen, sides[1]


def ordered(sides: Sides, more: Callable[[], str]) -> Sides:
    """The longer side is the chosen one."""
    return (sides[0], sides[1]) if len(sides[0]) >= len(sides[1]) else (sides[1], sides[0])


def worded(sides: Sides, more: Callable[[], str]) -> Sides:
    """The chosen side begins with a word."""
    return f"Certainly! {sides[0]}", sides[1]


def listed(sides: Sides, more: Callable[[], str]) -> Sides:
    """The chosen side is a list of its sentences."""
    sentences = re.split(r"(?<=[.!?])\s+", sides[0])
    return "\n".join(f"- {sentence}" for sentence in sentences), sides[1]


def named(sides: Sides, more: Callable[[], str]) -> Sides:
    """Both sides say a name, the chosen one another."""
    return f"{sides[0]} I am Deep Qwen.", f"{sides[1]} I am Qwen."


# name -> (what is done to a pair, to which share of the pairs)
PLANTED: dict[str, tuple[Plant | None, float]] = {
    "clean": (None, 0.0),
    "20%: chosen is three times as long": (longer, SHARE),
    "20%: the longer side is chosen": (ordered, SHARE),
    "20%: chosen begins with a word": (worded, SHARE),
    "20%: chosen is a list": (listed, SHARE),
    "100%: another name in chosen": (named, 1.0),
}


def planted_set(texts: Sequence[str], count: int, plant: Plant | None, share: float,
                seed: int) -> list[Pair]:  # fmt: skip
    """Pairs of random answers, of which a share is changed."""
    draw = random.Random(f"{count} {seed}")
    chosen = draw.sample(list(texts), 2 * count)
    changed = set(draw.sample(range(count), round(share * count)))
    pairs = []
    for i in range(count):
        sides: Sides = (chosen[2 * i], chosen[2 * i + 1])
        if plant is not None and i in changed:
            sides = plant(sides, lambda: draw.choice(texts))
        pairs.append(Pair(place=str(i), prompt=digest(str(i)), chosen=sides[0], rejected=sides[1]))
    return pairs


def warnings(pairs: Sequence[Pair], limits: Limits) -> set[str]:
    """What lint warns of."""
    found = pair_separability(pairs, total=len(pairs))
    findings = [*separability_findings(found, limits), *phrase_findings(pairs, limits)]
    said = {finding.check for finding in findings if finding.level == "warning"}
    return {"fixed phrase" if check.startswith("fixed") else check.removeprefix("separable_by_") for check in said}


def answers(folder: Path) -> list[str]:
    """Different answers of at least 20 characters."""
    alpaca, dpo, kto = (
        json.loads((folder / f"{name}_en_demo.json").read_text(encoding="utf-8")) for name in ("alpaca", "dpo", "kto")
    )
    texts = [row["output"] for row in alpaca] + [row[side]["value"] for row in dpo for side in ("chosen", "rejected")]
    texts += [row["messages"][-1]["content"] for row in kto]
    return [text for text in dict.fromkeys(text.strip() for text in texts) if len(text) >= 20]


def measure(texts: Sequence[str], sizes: Sequence[int], planted: int, clean_sets: int) -> str:
    """The table: for each kind of set and size, how often each warning was given."""
    heads = ("set", "pairs", "any warning", *CHECKS)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    rates: dict[tuple[str, int], float] = {}
    for name, (plant, share) in PLANTED.items():
        seeds = clean_sets if plant is None else planted
        for size in sizes:
            counts: Counter[str] = Counter()
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                said = warnings(planted_set(texts, size, plant, share, seed), Limits())
                counts.update(said)
                counts["any"] += bool(said)
            rates[name, size] = counts["any"] / seeds
            cells = [f"{100 * counts[check] / seeds:.0f}%" for check in CHECKS]
            lines.append(f"| {name} | {size} | {wilson(counts['any'], seeds).percent()} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    clean = {size: rates["clean", size] for size in sizes}
    lines += ["", "Precision where as many sets are planted as are clean, and recall:", ""]
    lines += ["| set | pairs | precision | recall |", "|---|---|---|---|"]
    for (name, size), rate in rates.items():
        if name != "clean":
            precision = f"{rate / (rate + clean[size]):.2f}" if rate else "-"
            lines.append(f"| {name} | {size} | {precision} | {rate:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="planted sets of each kind")
    parser.add_argument("--clean", type=int, default=20, help="clean sets")
    parser.add_argument("--pairs", type=int, nargs="+", default=[300], help="pairs of a set")
    arguments = parser.parse_args()
    texts = answers(Path(os.environ["POSTTRAIN_DATA"], "llamafactory_demo"))
    head = f"{arguments.clean} clean sets, {arguments.seeds} planted sets of each kind; intervals of 95%."
    text = f"{head}\n\n{measure(texts, arguments.pairs, arguments.seeds, arguments.clean)}\n"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

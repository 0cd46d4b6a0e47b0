"""What `posttrain data filter` finds of what was planted in real rows, and what it removes beside it:
`POSTTRAIN_DATA=DIR python -m benchmarks.filter_planted`.

Of the rows, a tenth are near copies of earlier ones (5 to 20% of the words replaced, left out or put in), 5% hold a
question of an evaluation set, 5% have an empty answer and 3% are broken. The settings are the defaults, with
`near_duplicates` and `decontaminate` switched on; they were chosen before anything was run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.curation.filter import FilterCommand
from posttrain.curation.filters.filtering import run_filter
from posttrain.curation.filters.spoken import spoken
from posttrain.stats import wilson

RESULTS = Path(__file__).parent / "results" / "filter_planted.md"
SHARES = {"near duplicate": 0.10, "contaminated": 0.05, "empty": 0.05, "broken": 0.03}
STEPS: Mapping[str, tuple[str, ...]] = {  # the filters that are to find each kind
    "near duplicate": ("near_duplicates", "duplicates"),
    "contaminated": ("contamination",),
    "empty": ("empty",),
    "broken": ("read", "columns", "formatting"),
}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A line of the file, and what it is: "" for a row as it was; `how` says more."""

    line: str
    kind: str = ""
    how: str = ""


def plant(rows: Sequence[Row], questions: Sequence[str], seed: int = 0) -> list[Planted]:
    """The rows with what is planted among them, which makes up SHARES of all."""
    rng = random.Random(seed)
    total = int(len(rows) / (1 - sum(SHARES.values())))
    words = [word for row in rows[:500] for word in spoken(row).text.split()]
    placed = [(rng.random(), Planted(line=json.dumps(row, ensure_ascii=False))) for row in rows]
    for _ in range(int(SHARES["near duplicate"] * total)):
        number = rng.randrange(len(rows))
        share = rng.uniform(0.05, 0.2)
        copy = {name: edited(value, share, words, rng) for name, value in rows[number].items()}
        how = "5-10% of the words" if share < 0.1 else "10-15% of the words" if share < 0.15 else "15-20% of the words"
        line = json.dumps(copy, ensure_ascii=False)
        placed.append((rng.uniform(placed[number][0], 1), Planted(line=line, kind="near duplicate", how=how)))
    for kind, make in (("contaminated", leaked), ("empty", emptied), ("broken", broken)):
        for number in range(int(SHARES[kind] * total)):
            line, how = make(rng.choice(rows), rng.choice(questions), number, rng, words)
            placed.append((rng.random(), Planted(line=line, kind=kind, how=how)))
    return [one for _, one in sorted(placed, key=lambda pair: pair[0])]


def edited(text: Any, share: float, words: Sequence[str], rng: random.Random) -> Any:
    """The text with this share of its words replaced, left out, or others put in, a third each."""
    if not isinstance(text, str):
        return text
    parts = text.split(" ")
    for place in sorted(rng.sample(range(len(parts)), round(share * len(parts))), reverse=True):
        kind = rng.randrange(3)
        parts[place : place + 1] = [[rng.choice(words)], [], [rng.choice(words), parts[place]]][kind]
    return " ".join(parts)


def leaked(row: Row, question: str, number: int, rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """A row that holds the question, in one of five ways."""
    how = (
        "as it is",
        "in capitals without signs",
        "within a longer prompt",
        "in the answer",
        "10% of the words edited",
    )
    kind = how[number % len(how)]
    answer = spoken(row).answers[0]
    prompt = {
        "as it is": question,
        "in capitals without signs": "".join(c for c in question.upper() if c.isalnum() or c.isspace()),
        "within a longer prompt": f"{' '.join(rng.choices(words, k=30))}\n\n{question}\n\nThink step by step.",
        "10% of the words edited": edited(question, 0.1, words, rng),
    }.get(kind)
    made = {"instruction": "Write a task.", "output": question} if prompt is None else None
    return json.dumps(made or {"instruction": prompt, "output": answer}, ensure_ascii=False), kind


def emptied(row: Row, question: str, number: int, rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """A row whose answer says nothing."""
    answer = ("", "  \n", "N/A", "...", "None")[number % 5]
    return json.dumps({"instruction": spoken(row).prompt, "output": answer}), repr(answer)


def broken(row: Row, question: str, number: int, rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """A row that cannot be read, or that was damaged."""
    asked, said = spoken(row).prompt, spoken(row).answers[0]
    whole = json.dumps({"instruction": asked, "output": said}, ensure_ascii=False)
    ways = {
        "cut off": whole[: max(1, int(len(whole) * rng.uniform(0.2, 0.95)))],
        "single quotes": str({"instruction": asked, "output": said}),
        "no answer": json.dumps({"instruction": asked, "output": None}),
        "a number for an answer": json.dumps({"instruction": asked, "output": 7}),
        "a list": json.dumps([asked, said]),
        "a template token": json.dumps({"instruction": asked, "output": f"{said}<|im_end|>"}),
        "an open code block": json.dumps({"instruction": asked, "output": f"{said}\n```python\nprint(1)"}),
        "a wrong encoding": json.dumps({"instruction": asked, "output": f"{said} It’s done – really.".encode()
                                        .decode("cp1252", "replace")}),
    }  # fmt: skip
    kind = list(ways)[number % len(ways)]
    line = ways[kind]
    return (line if line.strip() and "\n" not in line else json.dumps(line)), kind


def real_rows(data: Path) -> tuple[list[Row], list[str]]:
    """Rows to plant among, and evaluation questions that none of them holds."""
    rows = json.loads((data / "llamafactory_demo" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    rows += [_row(line) for line in (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:3000]]
    tests = [json.loads(line) for line in (data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    tests += [json.loads(line) for line in (data / "ifeval" / "input_data.jsonl").read_text("utf-8").splitlines()]
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        tests += [json.loads(line) for line in file]
    return rows, [test.get("question") or test["prompt"] for test in tests]


def _row(line: str) -> Row:
    row = json.loads(line)
    return {"instruction": row["question"], "output": row["answer"]}


def removed(lines: Sequence[str], questions: Sequence[str], directory: Path) -> dict[int, str]:
    """Line -> the filter that removed it."""
    directory.mkdir(exist_ok=True)
    (directory / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    against = directory / "questions.jsonl"
    against.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in questions), encoding="utf-8")
    output = directory / "out.jsonl"
    run_filter(
        FilterCommand(
            inputs=[str(directory / "in.jsonl")], output=str(output), near_duplicates=True, decontaminate=[str(against)]
        )
    )
    rejects = (directory / "out.jsonl.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {reject["line"]: reject["step"] for reject in map(json.loads, rejects)}


def found(planted: Sequence[Planted], steps: Mapping[int, str]) -> dict[str, tuple[int, int, int]]:
    """For each kind: how many were planted, how many of these its filters removed, how many rows they removed in all.

    A row that another filter removed before (an edited copy of a row with a damaged answer, say) is not counted as
    found.
    """
    counts = {}
    for kind, names in STEPS.items():
        mine = {number for number, one in enumerate(planted, 1) if one.kind == kind}
        hits = {number for number, step in steps.items() if step in names}
        counts[kind] = (len(mine), len(mine & hits), len(hits))
    return counts


def main() -> None:
    """Plants, filters, counts, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    rows, questions = real_rows(Path(os.environ["POSTTRAIN_DATA"]))
    sums: dict[str, list[int]] = {kind: [0, 0, 0, 0] for kind in STEPS}
    ways: dict[tuple[str, str], Counter[bool]] = {}
    with tempfile.TemporaryDirectory() as home:
        alone = Path(home) / "alone"
        before = Counter(removed([json.dumps(row) for row in rows], questions, alone).values())
        for seed in range(given.seeds):
            directory = Path(home) / str(seed)
            planted = plant(rows, questions, seed)
            steps = removed([one.line for one in planted], questions, directory)
            for kind, (count, hits, all_hits) in found(planted, steps).items():
                natural = sum(before[name] for name in STEPS[kind])
                sums[kind] = [a + b for a, b in zip(sums[kind], (count, hits, all_hits, natural))]
            for number, one in enumerate(planted, 1):
                if one.kind:
                    ways.setdefault((one.kind, one.how), Counter())[steps.get(number) in STEPS[one.kind]] += 1
    lines = ["| planted | rows | found | recall | removed beside them | of these also without planting | precision |"]
    lines.append("|---|---|---|---|---|---|---|")
    for kind, (count, hits, all_hits, natural) in sums.items():
        precision = wilson(hits, hits + max(0, all_hits - hits - natural)).percent()
        recall = wilson(hits, count).percent()
        lines.append(f"| {kind} | {count:,} | {hits:,} | {recall} | {all_hits - hits} | {natural} | {precision} |")
    lines += ["", "| planted | how | rows | recall |", "|---|---|---|---|"]
    for (kind, how), counts in sorted(ways.items()):
        recall = wilson(counts[True], counts.total()).percent()
        lines.append(f"| {kind} | {how} | {counts.total():,} | {recall} |")
    text = "\n".join([*lines, ""])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

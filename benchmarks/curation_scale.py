"""Rows a second and peak memory of each filter that runs no model, and of deduplication:
`python -m benchmarks.curation_scale [--rows 10000 100000] [--cases near_duplicates ...]`.

Rows are synthetic: about 80 words that follow Zipf's law over 50,000, a tenth of them near copies and a twentieth exact
copies of earlier ones. Each case is the command `posttrain data filter` in a process of its own, from the file to the
written file. Memory is the proportional set size (PSS) of all its processes together, sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "curation_scale.md"
OFF = ("--no_empty", "--no_formatting", "--no_duplicates")
# name -> flags; all the filters of a case and no others
CASES: Mapping[str, tuple[str, ...]] = {
    "none (read and write)": OFF,
    "empty": (*OFF[1:],),
    "formatting": (OFF[0], OFF[2]),
    "refusals": (*OFF, "--refusals"),
    "length": (*OFF, "--min_answer_words", "5", "--max_answer_words", "200"),
    "repetition": (*OFF, "--max_repetition", "0.3"),
    "words": (*OFF, "--forbidden_words", "w17a", "w90b w91b", "w333"),
    "language by script": (*OFF, "--languages", "latin"),
    "decontaminate": (*OFF, "--decontaminate", "QUESTIONS"),
    "duplicates": (*OFF[:2],),
    "near_duplicates": (*OFF, "--near_duplicates"),
    "select by clusters": (*OFF, "--select", "1000"),
    "all but select": (
        "--refusals", "--max_repetition", "0.3", "--min_answer_words", "5", "--forbidden_words", "w17a", "--languages",
        "latin", "--decontaminate", "QUESTIONS", "--near_duplicates",
    ),
}  # fmt: skip
LARGE = ("near_duplicates", "duplicates", "all but select")  # cases that are run at a million rows


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a case took."""

    case: str
    rows: int
    kept: int
    time_s: float
    cpu_s: float
    memory_mib: float


def synthetic(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows as the module says."""
    rng = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(50_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    recent: list[str] = []
    for number in range(count):
        kind = rng.random()
        if recent and kind < 0.05:
            text = rng.choice(recent)
        elif recent and kind < 0.15:
            words = rng.choice(recent).split()
            for place in rng.sample(range(len(words)), max(1, int(len(words) * rng.uniform(0.05, 0.2)))):
                words[place] = rng.choice(vocabulary)
            text = " ".join(words)
        else:
            text = " ".join(rng.choices(vocabulary, cum_weights=weights, k=rng.randint(30, 130)))
        if len(recent) < 1000 or number % 50 == 0:
            recent = [*recent[-999:], text]
        words = text.split()
        yield {"prompt": " ".join(words[:20]), "completion": " ".join(words[20:])}


def write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    """Rows as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def measure(case: str, data: Path, questions: Path, rows: int, directory: Path) -> Measured:
    """Runs the command and watches its memory."""
    output = directory / "out.jsonl"
    for old in directory.glob("out.jsonl*"):
        old.unlink()
    flags = [str(questions) if flag == "QUESTIONS" else flag for flag in CASES[case]]
    command = [sys.executable, "-m", "posttrain.cli", "data", "filter", str(data), "--output", str(output), *flags]
    peak, done = [0.0], threading.Event()
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watch = threading.Thread(target=_watch, args=(process.pid, peak, done))
        watch.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        done.set()
        watch.join()
    if code:
        raise SystemExit(f"{case}: the command ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    card = json.loads((directory / "out.jsonl.card.json").read_text())
    kept = card["counts"]["rows written"]
    return Measured(case=case, rows=rows, kept=kept, time_s=seconds, cpu_s=cpu, memory_mib=peak[0])


def _watch(pid: int, peak: list[float], done: threading.Event) -> None:
    while not done.wait(0.2):
        peak[0] = max(peak[0], sum(map(_pss, _tree(pid))) / 1024)


def _tree(pid: int) -> list[int]:
    """The process and all that came from it."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [
            int(child) for task in tasks for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:
        return []
    return [pid, *(found for child in children for found in _tree(child))]


def _pss(pid: int) -> int:
    """KiB of memory, what is shared counted in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def table(results: list[Measured], load: float) -> str:
    """The results as Markdown."""
    lines = [
        "| filters | rows | kept | seconds | rows a second | CPU seconds | peak memory (MiB) |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one.case} | {one.rows:,} | {one.kept:,} | {one.time_s:.1f} | {one.rows / one.time_s:,.0f} | "
            f"{one.cpu_s:.1f} | {one.memory_mib:,.0f} |"
            for one in results
        ),
    ]
    cores = len(os.sched_getaffinity(0))
    where = f"{cores} cores, Python {platform.python_version()}, load {load:.1f} before the first case."
    return "\n".join([*lines, "", where, ""])


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cases", nargs="+", choices=CASES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    load, results = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home)
        questions = directory / "questions.jsonl"
        write(questions, synthetic(1000, seed=1))
        for count in given.rows:
            data = directory / "in.jsonl"
            write(data, synthetic(count))
            for case in given.cases or (LARGE if count >= 1_000_000 else CASES):
                results.append(measure(case, data, questions, count, directory))
                print(results[-1], flush=True)
    given.results.parent.mkdir(exist_ok=True)
    given.results.write_text(table(results, load), encoding="utf-8")
    print(table(results, load))


if __name__ == "__main__":
    main()

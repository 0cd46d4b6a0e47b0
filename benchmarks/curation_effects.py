"""What curated data is worth, on the embedded model: `python -m benchmarks.curation_effects --demo runs/demo`.

Needs what `posttrain demo --seeds N` leaves: for each seed the model after SFT and the one after GRPO.
Four comparisons, everything else equal within each: a teacher's answers; filtered rows against random and all ones;
rejection sampling against the samples as they are; DPO on pairs against SFT on their better side. Held-out questions
are the same for all, answered by the likeliest answer and by drawn ones (temperature 1); an interval is over questions,
whose grades are first averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain import embedded
from posttrain.config.curation.distill import DistillCommand
from posttrain.config.curation.filter import FilterCommand
from posttrain.config.curation.pairs import PairsSampleCommand
from posttrain.config.curation.reject_sample import RejectSampleCommand
from posttrain.curation.filters.filtering import run_filter
from posttrain.curation.making import Telling, run_distill, run_pairs_sample, run_reject_sample
from posttrain.stats.difference import paired_difference
from posttrain.stats.intervals import bootstrap_mean
from posttrain.types import SamplingParams

RESULTS = Path(__file__).parent / "results" / "curation_effects.md"
QUESTIONS, PROMPTS, ROWS, DRAWS = 400, 800, 2000, 4
QUIET = Telling(note=lambda text: None)
NOISE = ("another answer", "refusal", "empty", "repetition", "shuffled words")
Rows = list[dict[str, Any]]
Grades = list[float]


# Training and measuring


def train(kind: str, model: str, data: str | Path, out: Path, *, seed: int, learning_rate: float, **more: Any) -> str:
    """The directory of the model trained on the data for one epoch; one that is there is taken as it is."""
    from posttrain import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    if not (out / "model.safetensors").exists():
        config, trainer = {"sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer)}[kind]
        args = config(
            output_dir=str(out / "run"), learning_rate=learning_rate, num_train_epochs=1, max_length=256, seed=seed,
            per_device_train_batch_size=16, bf16=False, use_cpu=True, num_threads=1, save_strategy="no",
            disable_tqdm=True, logging_steps=1000, **more,
        )  # fmt: skip
        made = trainer(model=model, args=args, train_dataset=str(data))
        made.train()
        made.save_model(str(out))
    return str(out)


def grades(model: str, questions: Rows, seed: int) -> dict[str, Grades]:
    """For each question, whether the likeliest answer is right, and the share of right ones among drawn answers."""
    from posttrain import LocalSampler, load_model_and_tokenizer

    loaded, tokenizer = load_model_and_tokenizer(model, device="cpu")
    sampler = LocalSampler(loaded, tokenizer)
    prompts = [question["prompt"] for question in questions]
    found = {}
    for name, temperature, count in (("drawn", 1.0, DRAWS), ("likeliest", 0.0, 1)):
        groups = sampler.sample(
            prompts, SamplingParams(max_tokens=80, temperature=temperature), count=count, seed=7000 + seed
        )
        found[name] = [
            sum(embedded.grade(question, completion.text.strip()) for completion in group) / count
            for question, group in zip(questions, groups)
        ]
    return found


def write(path: Path, rows: Rows) -> Path:
    """The path, with a row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> Rows:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# The four comparisons: each gives the models of its arms, and what to say of the data


def distilled(sft: str, teacher: str, work: Path, seed: int) -> tuple[dict[str, str], dict[str, Any]]:
    """The base, the teacher, and the base trained on the teacher's answers to problems."""
    prompts = write(work / "prompts.jsonl", embedded.word_problems("train", PROMPTS, seed=1000 + seed))
    command = DistillCommand(
        inputs=[str(prompts)], output=str(work / "data.jsonl"), model=teacher, count=2, max_tokens=80, seed=seed
    )
    made = run_distill(command, QUIET)
    student = train("sft", embedded.model_path(), work / "data.jsonl", work / "student", seed=seed, learning_rate=1e-3)
    arms = {"base": embedded.model_path(), "teacher before GRPO": sft, "teacher": teacher}
    arms["base trained on the teacher's answers"] = student
    return arms, {"rows": made.rows}


def filtered(sft: str, teacher: str, work: Path, seed: int) -> tuple[dict[str, str], dict[str, Any]]:
    """The base trained on what filters keep of rows half of which are noise, on as many at random, and on all."""
    base, rng = embedded.model_path(), random.Random(seed)
    good = [dict(row, planted="good") for row in embedded.chat_rows(seed=2000 + seed, n=ROWS)]
    noise = [noisy(row, good, NOISE[number % len(NOISE)], rng) for number, row in enumerate(
        embedded.chat_rows(seed=3000 + seed, n=ROWS))]  # fmt: skip
    rows = [*good, *noise]
    rng.shuffle(rows)
    everything = write(work / "all.jsonl", rows)
    output = run_filter(
        FilterCommand(
            inputs=[str(everything)], output=str(work / "kept.jsonl"), refusals=True, max_repetition=0.5,
            duplicates=False, ifd_model=base, max_ifd=1.0, workers=1,
        )
    )  # fmt: skip
    kept = read(output.path)
    at_random = write(work / "random.jsonl", rng.sample(rows, len(kept)))
    arms = {
        name: train("sft", base, path, work / directory, seed=seed, learning_rate=1e-3)
        for name, path, directory in (
            ("what the filters keep", output.path, "kept"), ("as many at random", at_random, "random"),
            ("all", everything, "all"),
        )
    }  # fmt: skip
    left = {kind: sum(row["planted"] == kind for row in kept) for kind in ("good", *NOISE)}
    return arms, {"rows": len(rows), "kept": len(kept), **{f"kept: {kind}": count for kind, count in left.items()}}


def noisy(row: dict[str, Any], others: Rows, kind: str, rng: random.Random) -> dict[str, Any]:
    """The row with its answers spoilt."""
    messages = [dict(message) for message in row["messages"]]
    for message in messages:
        if message["role"] == "assistant":
            words = message["content"].split()
            message["content"] = {
                "another answer": lambda: rng.choice(others)["messages"][-1]["content"],
                "refusal": lambda: "I'm sorry, but I cannot help with that.",
                "empty": lambda: "",
                "repetition": lambda words=words: " ".join(words[:4] * 8),
                "shuffled words": lambda words=words: " ".join(rng.sample(words, len(words))),
            }[kind]()
    return {"messages": messages, "planted": kind}


def rejected(sft: str, teacher: str, work: Path, seed: int) -> tuple[dict[str, str], dict[str, Any]]:
    """The model after SFT, and trained on its own right samples, and on samples of the same prompts as they come."""
    prompts = write(work / "prompts.jsonl", embedded.word_problems("train", PROMPTS, seed=4000 + seed))
    made = run_reject_sample(
        RejectSampleCommand(
            inputs=[str(prompts)], output=str(work / "kept.jsonl"), model=sft, reward=["final_answer"], threshold=1,
            count=8, max_tokens=80, seed=seed,
        ),
        QUIET,
    )  # fmt: skip
    kept = read(work / "kept.jsonl")
    answers = {line["row"]: line["value"] for line in read(work / "kept.jsonl.answers.jsonl")[1:]
               if line["kind"] == "answers"}  # fmt: skip
    rng = random.Random(seed)
    unfiltered = []
    for row in kept:
        answer = rng.choice(answers[row["_provenance"]["line"] - 1])
        unfiltered.append({**row, "completion": [{"role": "assistant", "content": answer["text"]}]})
    as_they_come = write(work / "unfiltered.jsonl", unfiltered)
    arms = {
        "before": sft,
        "trained on right samples": train(
            "sft", sft, work / "kept.jsonl", work / "reject", seed=seed, learning_rate=3e-4
        ),
        "trained on samples as they come": train(
            "sft", sft, as_they_come, work / "plain", seed=seed, learning_rate=3e-4
        ),
    }
    shown = {name: value for name, value in made.card.counts.items() if name.startswith(("pass@", "prompts "))}
    return arms, {"rows": len(kept), **shown}


def paired(sft: str, teacher: str, work: Path, seed: int) -> tuple[dict[str, str], dict[str, Any]]:
    """The model after SFT, and trained by DPO on its best against its worst samples, and by SFT on the best alone."""
    prompts = write(work / "prompts.jsonl", embedded.word_problems("train", PROMPTS, seed=4000 + seed))
    answers = work.parent / "rejected" / "kept.jsonl.answers.jsonl"  # of the same model, prompts and seed
    if answers.exists() and not (work / "pairs.jsonl.answers.jsonl").exists():
        shutil.copy(answers, work / "pairs.jsonl.answers.jsonl")
    made = run_pairs_sample(
        PairsSampleCommand(
            inputs=[str(prompts)], output=str(work / "pairs.jsonl"), model=sft, reward=["final_answer"], count=8,
            max_tokens=80, seed=seed,
        ),
        QUIET,
    )  # fmt: skip
    best = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in read(work / "pairs.jsonl")]
    pairs, alone = work / "pairs.jsonl", write(work / "best.jsonl", best)
    both: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    arms = {"before": sft}
    for rate in (1e-4, 3e-4):  # each loss at the other's learning rate, too
        at = f"at {rate:.0e}".replace("e-0", "e-")
        arms |= {
            f"DPO, best against worst, {at}": train(
                "dpo", sft, pairs, work / f"dpo {at}", seed=seed, learning_rate=rate
            ),
            f"DPO with an sft term, {at}": train(
                "dpo", sft, pairs, work / f"both {at}", seed=seed, learning_rate=rate, **both
            ),
            f"SFT on the best alone, {at}": train(
                "sft", sft, alone, work / f"best {at}", seed=seed, learning_rate=rate
            ),
        }
    names = ("characters of chosen", "characters of rejected", "chosen is longer")
    return arms, {"pairs": made.rows, **{name: made.card.counts[name] for name in names}}


Comparison = Callable[[str, str, Path, int], tuple[dict[str, str], dict[str, Any]]]
COMPARISONS: dict[str, tuple[str, Comparison, tuple[tuple[str, str], ...]]] = {
    "distilled": (
        "A teacher trained with GRPO, distilled into the base", distilled,
        tuple(
            (less, "base trained on the teacher's answers") for less in ("base", "teacher before GRPO", "teacher")
        ),
    ),
    "filtered": (
        "SFT of the base on rows half of which are noise", filtered,
        (("as many at random", "what the filters keep"), ("all", "what the filters keep")),
    ),
    "rejected": (
        "Rejection sampling", rejected,
        (("before", "trained on right samples"), ("trained on samples as they come", "trained on right samples")),
    ),
    "paired": (
        "Best against worst", paired,
        (("before", "DPO, best against worst, at 1e-4"),
         ("SFT on the best alone, at 1e-4", "DPO, best against worst, at 1e-4"),
         ("SFT on the best alone, at 3e-4", "DPO, best against worst, at 3e-4"),
         ("SFT on the best alone, at 3e-4", "DPO with an sft term, at 3e-4")),
    ),
}  # fmt: skip


def questions_of(name: str) -> Rows:
    """The held-out questions of a comparison: word problems, and where chat rows are trained on sums and facts, too."""
    problems = embedded.word_problems("test", QUESTIONS)
    return [*problems, *embedded.arithmetic("test", 200), *embedded.battery()] if name == "filtered" else problems


def run(name: str, demo: Path, seed: int, work: Path) -> dict[str, Any]:
    """The grades of each arm, and what is to be said of the data; what is there already is taken as it is."""
    done = work / name / "results.json"
    if not done.exists():
        start = demo / f"seed-{seed}"
        (work / name).mkdir(parents=True, exist_ok=True)
        models, data = COMPARISONS[name][1](
            str(start / "sft" / "model"), str(start / "grpo" / "model"), work / name, seed
        )
        questions = questions_of(name)
        found = {"grades": {arm: grades(model, questions, seed) for arm, model in models.items()}, "data": data}
        done.write_text(json.dumps(found), encoding="utf-8")
    result: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return result


def table(name: str, runs: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """A comparison as Markdown."""
    title, _, differences = COMPARISONS[name]
    arms = list(runs[0]["grades"])
    means = {
        (arm, way): [sum(one) / len(one) for one in zip(*(run["grades"][arm][way] for run in runs))]
        for arm in arms
        for way in ("drawn", "likeliest")
    }
    lines = [f"## {title}", "", "| arm | right when drawn | each seed | right when likeliest |", "|---|---|---|---|"]
    for arm in arms:
        each = ", ".join(f"{100 * sum(g) / len(g):.1f}" for g in (run["grades"][arm]["drawn"] for run in runs))
        drawn, likeliest = (bootstrap_mean(means[arm, way]).percent() for way in ("drawn", "likeliest"))
        lines.append(f"| {arm} | {drawn} | {each} | {likeliest} |")
    lines += ["", "| difference in points | drawn | likeliest |", "|---|---|---|"]
    for less, more in differences:
        found = [paired_difference(means[less, way], means[more, way]) for way in ("drawn", "likeliest")]
        points = " | ".join(f"{100 * d.estimate:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]" for d in found)
        lines.append(f"| {more}, less {less} | {points} |")
    for seed, one in zip(seeds, runs):
        lines += ["", f"Data of seed {seed}: " + ", ".join(f"{k} {v}" for k, v in one["data"].items()) + "."]
    return "\n".join(lines)


def main() -> None:
    """Runs the comparisons and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True, help="what `posttrain demo` left")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(COMPARISONS), default=list(COMPARISONS))
    parser.add_argument("--work", type=Path, default=Path("runs/curation_effects"))
    options = parser.parse_args()
    pages = []
    for name in options.only:
        runs = [run(name, options.demo, seed, options.work / f"seed-{seed}") for seed in options.seeds]
        pages.append(table(name, runs, options.seeds))
        print(pages[-1], end="\n\n", flush=True)
    if options.only == list(COMPARISONS):
        RESULTS.parent.mkdir(exist_ok=True)
        seeds = ", ".join(map(str, options.seeds))
        words = f"Seeds {seeds}; {QUESTIONS} held-out word problems, for the filters also sums and facts."
        RESULTS.write_text("\n\n".join(["# Effects of curation", words, *pages]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

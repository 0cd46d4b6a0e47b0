"""No row lost, none invented, order kept: whatever the prompts, the answers and the way they are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain import LocalSampler, embedded, load_model_and_tokenizer
from posttrain.config.curation.distill import DistillCommand
from posttrain.config.curation.pairs import PairsSampleCommand
from posttrain.config.curation.reject_sample import RejectSampleCommand
from posttrain.curation import distill, pairs_sample, reject_sample
from posttrain.curation.candidates import Asking
from posttrain.curation.distillation import distil
from posttrain.curation.making import Telling, run_distill, run_pairs_sample, run_reject_sample
from posttrain.curation.row_lists import RowLists
from posttrain.curation.sinks import Collected, prompts_of
from posttrain.types import Completion, SamplingParams

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
TEXTS = st.sampled_from(["", "0", "1", "11", "111", "cut"])


class Scripted:
    """A sampler that says what it was given to say; "cut" is an answer cut off."""

    gives_tokens = False
    model = "scripted"

    def __init__(self, answers: Sequence[Sequence[str]]) -> None:
        self.answers = answers

    def sample(
        self, prompts: Sequence[Any], params: SamplingParams, *, count: int = 1, seed: int = 0,
        keys: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        assert keys is not None
        assert [prompt[-1]["content"] for prompt in prompts] == [f"q{key}" for key in keys]
        return [
            [Completion(text=text, finish_reason="length" if text == "cut" else "stop") for text in self.answers[key]]
            for key in keys
        ]


def length(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


GROUPS = st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(TEXTS, min_size=n, max_size=n), min_size=1, max_size=40))


def prompts(of: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"prompt": f"q{number}", "number": number} for number in range(len(of))]


def place(row: dict[str, Any]) -> int:
    return int(row["_provenance"]["line"]) - 1


@UNHURRIED
@given(GROUPS)
def test_distilled_answers_are_those_that_were_given(said: list[list[str]]) -> None:
    rows, card = distill(prompts(said), Scripted(said), count=len(said[0]))
    expected = [
        (number, text)
        for number, group in enumerate(said)
        for text in dict.fromkeys(text for text in group if text not in ("", "cut"))
    ]
    assert [(place(row), row["completion"][0]["content"]) for row in rows] == expected
    assert all(row["number"] == place(row) for row in rows)
    removed = sum(step.rows_in - step.rows_out for step in card.steps)
    assert removed + len(rows) == len(said) * len(said[0])


@UNHURRIED
@given(GROUPS, st.sampled_from(["best", "above", "first"]))
def test_kept_answers_reach_the_threshold_and_every_prompt_is_accounted_for(said: list[list[str]], keep: Any) -> None:
    rows, card = reject_sample(prompts(said), Scripted(said), length, threshold=2, keep=keep, k=2, count=len(said[0]))
    good = [[text for text in dict.fromkeys(group) if len(text) >= 2 and text != "cut"] for group in said]
    kept = {"best": [sorted(group, key=len)[-1:] for group in good], "above": good, "first": [g[:2] for g in good]}
    expected = [(number, text) for number, group in enumerate(kept[keep]) for text in group]
    assert [(place(row), row["completion"][0]["content"]) for row in rows] == expected
    removed = sum(step.rows_in - step.rows_out for step in card.steps)
    assert removed == sum(not group for group in good)
    banded = sum(number for name, number in card.counts.items() if name.endswith("right)"))
    assert banded == len(said)  # every answer was judged


@UNHURRIED
@given(GROUPS)
def test_pairs_are_of_the_best_and_the_worst_whole_answer(said: list[list[str]]) -> None:
    rows, card = pairs_sample(prompts(said), Scripted(said), length, count=len(said[0]))
    whole = [[text for text in dict.fromkeys(group) if text not in ("", "cut")] for group in said]
    sides = [(n, max(group, key=len), min(group, key=len)) for n, group in enumerate(whole) if group]
    expected = [(n, best, worst) for n, best, worst in sides if len(best) > len(worst)]
    found = [(place(row), row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert found == expected
    assert sum(step.rows_in - step.rows_out for step in card.steps) + len(rows) == len(said)


def test_the_file_and_the_list_in_memory_say_the_same(tmp_path: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(embedded.model_path(), device="cpu")
    sampler, params = LocalSampler(model, tokenizer), SamplingParams(max_tokens=16)
    data = [{"prompt": text} for text in ("Who are you?", "2 + 3", "What is a young cat called?")]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    reward = tmp_path / "mine.py"
    reward.write_text("def length(completions, **c):\n    return [float(len(x[0]['content'])) for x in completions]\n")
    fields: dict[str, Any] = {
        "inputs": [str(path)], "model": embedded.model_path(), "count": 4, "max_tokens": 16, "use_cpu": True, "seed": 3,
    }  # fmt: skip
    judged = {**fields, "reward": [f"{reward}:length"]}
    common: dict[str, Any] = {"count": 4, "params": params, "seed": 3}
    quiet = Telling(note=lambda text: None)
    for name, made, rows in (
        ("a", run_distill(DistillCommand(**fields, output=str(tmp_path / "a.jsonl")), quiet),
         distill(data, sampler, **common)[0]),
        ("b", run_reject_sample(RejectSampleCommand(**judged, threshold=None, output=str(tmp_path / "b.jsonl")), quiet),
         reject_sample(data, sampler, length, threshold=None, **common)[0]),
        ("c", run_pairs_sample(PairsSampleCommand(**judged, output=str(tmp_path / "c.jsonl")), quiet),
         pairs_sample(data, sampler, length, **common)[0]),
    ):  # fmt: skip
        written = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert made.rows == len(written) > 0
        for row in (*written, *rows):
            del row["_provenance"]
        assert written == rows


def test_a_model_here_goes_on_in_the_middle_and_ends_the_same(
    tmp_path: Path, tiny_model_dir: Callable[..., str]
) -> None:
    path, output = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n} + {n}"}) + "\n" for n in range(40)))
    command = DistillCommand(
        inputs=[str(path)], output=str(output), model=tiny_model_dir(), count=2, max_tokens=4, keep_unfinished=True,
        use_cpu=True,
    )  # fmt: skip
    quiet = Telling(note=lambda text: None)
    run_distill(command, quiet)
    whole, counts = output.read_bytes(), json.loads((tmp_path / "out.jsonl.card.json").read_text())["counts"]
    journal = tmp_path / "out.jsonl.answers.jsonl"
    kept = journal.read_bytes()
    for file in tmp_path.glob("out.jsonl*"):
        file.unlink()
    journal.write_bytes(kept[: len(kept) * 2 // 3])  # in the middle of a line
    made = run_distill(command, quiet)
    assert output.read_bytes() == whole
    assert made.card.counts["completion tokens"] > counts["completion tokens"]  # what was lost was paid for, too


def test_a_row_that_asks_nothing_is_named_by_its_place_and_its_field(tmp_path: Path) -> None:
    sink = Collected("distill")
    how = Asking.of(Scripted([["1"], []]), params=None)
    distil(prompts_of([{"prompt": "q0"}, {"prompt": 7}]), how, sink)
    assert [(line["line"], line["step"], line["field"]) for line in sink.rejects] == [(2, "prompt", "prompt")]
    (example,) = next(step for step in sink.card.steps if step.name == "prompt").examples
    assert example.startswith("prompts:2: 'prompt' must be")


def test_lists_of_prompts_are_written_as_other_rows_are(tmp_path: Path) -> None:
    with RowLists({"mixed": tmp_path / "mixed.jsonl"}) as lists:
        lists.add("mixed", {"prompt": "你是谁？"})
    assert "你是谁？" in (tmp_path / "mixed.jsonl").read_text(encoding="utf-8")

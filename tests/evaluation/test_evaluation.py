import json
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation import Task, evaluate
from posttrain.stats import wilson
from posttrain.types import Completion, SamplingParams

ROWS = [
    {"prompt": "two and two?", "answer": "4", "kind": "sum"},
    {"prompt": "three and one?", "answer": "4", "kind": "sum"},
    {"prompt": "capital of France?", "answer": "Paris", "kind": "fact"},
]


def exact(row, completion: str) -> bool:
    return completion == row["answer"]


class Said:
    """A sampler with its answers ready; it remembers what it was asked."""

    gives_tokens = False

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list = []
        self.params: SamplingParams | None = None

    def sample(self, prompts, params, *, count=1, seed=0, keys=None, progress=None):
        self.asked, self.params = self.asked + list(prompts), params
        if progress:
            progress(len(prompts) * count, len(prompts) * count)
        return [
            [Completion(text=self.texts[key * count + number], finish_reason="stop") for number in range(count)]
            for key in keys
        ]


def run(task: Task, *texts: str, **options):
    return evaluate(None, None, task, sampler=Said(*texts), **options)


def test_scores_are_means_with_wilson_intervals() -> None:
    sampler = Said("4", "5", "Paris")
    graders = {"correct": exact, "short": lambda row, completion: len(completion) < 3}
    result = evaluate(None, None, Task(name="t", rows=ROWS, graders=graders, max_new_tokens=7), sampler=sampler)
    assert result.scores == {"correct": wilson(2, 3), "short": wilson(2, 3)}
    assert (result.n, result.samples, result.correct) == (3, 1, 2 / 3)
    assert result.interval == wilson(2, 3)
    assert result.by_kind() == {"sum": wilson(1, 2), "fact": wilson(1, 1)}
    assert sampler.params == SamplingParams(max_tokens=7, temperature=0)
    assert sampler.asked[2] == [{"role": "user", "content": "capital of France?"}]


def test_several_samples_are_averaged_per_question() -> None:
    task = Task(name="t", rows=ROWS, graders={"correct": exact}, samples=2, temperature=1.0)
    result = run(task, "4", "4", "4", "5", "Rome", "Rome")
    assert result.n == 3
    assert len(result.records) == 6
    assert result.correct == pytest.approx((1 + 0.5 + 0) / 3)
    # Three questions, not six answers: the bootstrap reaches both ends.
    assert (result.interval.low, result.interval.high, result.interval.n) == (0.0, 1.0, 3)
    assert [(r.row, r.sample, r.grades["correct"]) for r in result.records][3] == (2, 2, 0.0)


def test_every_sample_leaves_a_record(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.jsonl"
    run(Task(name="t", rows=ROWS, graders={"correct": exact}), "4", "好", "Paris", records_path=path, seed=3)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[1] == {
        "task": "t",
        "row": 2,
        "sample": 1,
        "prompt": "three and one?",
        "completion": "好",
        "grades": {"correct": 0.0},
        "kind": "sum",
        "answer": "4",
        "seed": 3,
        "tokens": None,
        "finish_reason": "stop",
    }
    assert [p.name for p in path.parent.iterdir()] == ["t.jsonl"]


def test_a_task_without_graders_only_records() -> None:
    result = run(Task(name="t", rows=ROWS), "a", "b", "c")
    assert [record.completion for record in result.records] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no grader"):
        _ = result.correct


def test_a_system_message_goes_before_the_question() -> None:
    sampler = Said("a")
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "q"}]
    for prompt in ("q", own):
        evaluate(None, None, Task(name="t", rows=[{"prompt": prompt}], system_message="S"), sampler=sampler)
    assert [m["role"] for m in sampler.asked[0]] == ["system", "user"]
    assert sampler.asked[1] == own


def test_mistakes_name_the_row() -> None:
    with pytest.raises(DataError, match=r"task 't', row 2: expected a column 'prompt'.*question"):
        run(Task(name="t", rows=[ROWS[0], {"question": "?"}]), "a", "a")
    with pytest.raises(DataError, match=r"task 't', row 1, sample 1: grader 'g' returned 'yes'"):
        run(Task(name="t", rows=ROWS, graders={"g": lambda row, text: "yes"}), "a", "a", "a")
    with pytest.raises(DataError, match=r"grader 'g' returned 1.5"):
        run(Task(name="t", rows=ROWS, graders={"g": lambda row, text: 1.5}), "a", "a", "a")
    with pytest.raises(KeyError) as caught:
        run(Task(name="t", rows=ROWS, graders={"g": lambda row, text: row["nothing"]}), "a", "a", "a")
    assert caught.value.__notes__ == ["task 't', row 1, sample 1"]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        Task(name="t", rows=[])
    with pytest.raises(DataError, match="max_new_tokens is 0"):
        Task(name="t", rows=ROWS, max_new_tokens=0)
    with pytest.raises(DataError, match="same answer 4 times"):
        Task(name="t", rows=ROWS, samples=4)
    with pytest.raises(DataError, match="samples is 0"):
        Task(name="t", rows=ROWS, samples=0)

import json
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation import Task, evaluate
from posttrain.stats import wilson

ROWS = [
    {"prompt": "two and two?", "answer": "4", "kind": "sum"},
    {"prompt": "three and one?", "answer": "4", "kind": "sum"},
    {"prompt": "capital of France?", "answer": "Paris", "kind": "fact"},
]


def exact(row, completion: str) -> bool:
    return completion == row["answer"]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch):
    """Replaces generation: `say` holds the completions, `asked` and `options` what was wanted."""

    class Answers:
        say: list[str]
        asked: list
        options: dict

    def generate_batch(model, tokenizer, prompts, **options):
        Answers.asked, Answers.options = prompts, options
        assert len(prompts) == len(Answers.say)
        return Answers.say

    monkeypatch.setattr("posttrain.sampling.generate.generate_batch", generate_batch)
    return Answers


def test_scores_are_means_with_wilson_intervals(answers) -> None:
    answers.say = ["4", "5", "Paris"]
    graders = {"correct": exact, "short": lambda row, completion: len(completion) < 3}
    result = evaluate(None, None, Task(name="t", rows=ROWS, graders=graders, max_new_tokens=7))
    assert result.scores == {"correct": wilson(2, 3), "short": wilson(2, 3)}
    assert (result.n, result.samples, result.correct) == (3, 1, 2 / 3)
    assert result.interval == wilson(2, 3)
    assert result.by_kind() == {"sum": wilson(1, 2), "fact": wilson(1, 1)}
    assert answers.options["max_new_tokens"] == 7
    assert answers.options["do_sample"] is False
    assert answers.asked[2] == [{"role": "user", "content": "capital of France?"}]


def test_several_samples_are_averaged_per_question(answers) -> None:
    answers.say = ["4", "4", "4", "5", "Rome", "Rome"]
    task = Task(name="t", rows=ROWS, graders={"correct": exact}, samples=2, temperature=1.0)
    result = evaluate(None, None, task)
    assert result.n == 3
    assert len(result.records) == 6
    assert result.correct == pytest.approx((1 + 0.5 + 0) / 3)
    # Three questions, not six answers: the bootstrap reaches both ends.
    assert (result.interval.low, result.interval.high, result.interval.n) == (0.0, 1.0, 3)
    assert answers.options["do_sample"] is True
    assert [(r.row, r.sample, r.grades["correct"]) for r in result.records][3] == (2, 2, 0.0)


def test_every_sample_leaves_a_record(answers, tmp_path: Path) -> None:
    answers.say = ["4", "好", "Paris"]
    path = tmp_path / "deep" / "t.jsonl"
    evaluate(None, None, Task(name="t", rows=ROWS, graders={"correct": exact}), records_path=path)
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
    }
    assert [p.name for p in path.parent.iterdir()] == ["t.jsonl"]


def test_a_task_without_graders_only_records(answers) -> None:
    answers.say = ["a", "b", "c"]
    result = evaluate(None, None, Task(name="t", rows=ROWS))
    assert [record.completion for record in result.records] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no grader"):
        _ = result.correct


def test_a_system_message_goes_before_the_question(answers) -> None:
    answers.say = ["a"]
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "q"}]
    evaluate(None, None, Task(name="t", rows=[{"prompt": "q"}], system_message="S"))
    assert [m["role"] for m in answers.asked[0]] == ["system", "user"]
    evaluate(None, None, Task(name="t", rows=[{"prompt": own}], system_message="S"))
    assert answers.asked[0] == own


def test_mistakes_name_the_row(answers) -> None:
    answers.say = ["a"] * 3
    with pytest.raises(DataError, match=r"task 't', row 2: expected a column 'prompt'.*question"):
        evaluate(None, None, Task(name="t", rows=[ROWS[0], {"question": "?"}]))
    with pytest.raises(DataError, match=r"task 't', row 1: grader 'g' returned 'yes'"):
        evaluate(None, None, Task(name="t", rows=ROWS, graders={"g": lambda row, text: "yes"}))
    with pytest.raises(DataError, match=r"grader 'g' returned 1.5"):
        evaluate(None, None, Task(name="t", rows=ROWS, graders={"g": lambda row, text: 1.5}))
    with pytest.raises(KeyError) as caught:
        evaluate(None, None, Task(name="t", rows=ROWS, graders={"g": lambda row, text: row["nothing"]}))
    assert caught.value.__notes__ == ["task 't', row 1"]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        Task(name="t", rows=[])
    with pytest.raises(DataError, match="max_new_tokens is 0"):
        Task(name="t", rows=ROWS, max_new_tokens=0)
    with pytest.raises(DataError, match="same answer 4 times"):
        Task(name="t", rows=ROWS, samples=4)
    with pytest.raises(DataError, match="samples is 0"):
        Task(name="t", rows=ROWS, samples=0)

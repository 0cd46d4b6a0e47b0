import json
import math
from pathlib import Path

import pytest

from posttrain.config.gate import GateConfig
from posttrain.errors import DataError
from posttrain.evaluation import Record
from posttrain.evaluation.comparison import (
    Comparison,
    compare_records,
    decide_on,
    differing_settings,
    graded_alike,
    read_evaluation,
    write_comparison,
)
from posttrain.evaluation.records import write_records
from posttrain.stats import wilson


def records(task: str, **graders: list[float | None]) -> list[Record]:
    return [
        Record(
            task=task, row=row, sample=1, prompt=f"q{row}", completion="",
            grades={name: values[row - 1] for name, values in graders.items()},
        )
        for row in range(1, len(next(iter(graders.values()))) + 1)
    ]  # fmt: skip


def texts(*loglikelihoods: float) -> list[Record]:
    return [
        Record(
            task="p", row=row, sample=1, prompt="t", completion="", grades={},
            measures={"loglikelihood": value, "words": 2, "bytes": 10 * row, "tokens": 4},
        )
        for row, value in enumerate(loglikelihoods, start=1)
    ]  # fmt: skip


def test_flips_go_both_ways_and_the_test_is_mcnemars() -> None:
    """Rows 1 to 6 turn right, row 7 turns wrong, three stay: p = 2 (1 + 7) / 2^7 = 0.125."""
    before = {"t": records("t", correct=[0, 0, 0, 0, 0, 0, 1, 1, 1, 0])}
    after = {"t": records("t", correct=[1, 1, 1, 1, 1, 1, 0, 1, 1, 0])}
    (task,) = compare_records(before, after)
    assert (task.gained, task.lost, task.n, task.left_out) == ((1, 2, 3, 4, 5, 6), (7,), 10, 0)
    assert (task.headline.before, task.headline.after) == (wilson(3, 10), wilson(8, 10))
    assert task.headline.difference.estimate == pytest.approx(0.5)
    assert task.headline.difference.low < 0.5 < task.headline.difference.high
    assert task.headline.p_value == task.p_holm == 0.125


def test_holm_is_over_the_headlines_of_all_tasks() -> None:
    """p of 2/2^6 and 2/2^8: the smaller counts twice, the larger once."""
    before = {name: records(name, correct=[0] * 10, other=[0] * 10) for name in ("a", "b")}
    after = {name: records(name, correct=[1] * k + [0] * (10 - k), other=[1] * 10) for name, k in (("a", 6), ("b", 8))}
    a, b = compare_records(before, after)
    assert (a.headline.p_value, a.p_holm) == (2 / 2**6, 2 / 2**6)
    assert (b.headline.p_value, b.p_holm) == (2 / 2**8, 4 / 2**8)
    assert b.others["other"].p_value == 2 / 2**10
    chosen = compare_records(before, after, tasks=["b"])
    assert [(task.task, task.p_holm) for task in chosen] == [("b", 2 / 2**8)]


def test_questions_without_a_grade_on_a_side_are_left_out() -> None:
    before = {"t": records("t", correct=[None, 1, 0, 0])}
    after = {"t": records("t", correct=[1, 1, None, 1])}
    (task,) = compare_records(before, after)
    assert (task.n, task.left_out, task.gained) == (2, 2, (4,))
    assert graded_alike(before["t"], after["t"], "correct") == ([1.0, 0.0], [1.0, 1.0])


def test_learning_the_format_is_said() -> None:
    before = {"t": records("t", strict=[0] * 20, lenient=[1] * 10 + [0] * 10)}
    after = {"t": records("t", strict=[1] * 11 + [0] * 9, lenient=[1] * 11 + [0] * 9)}
    (task,) = compare_records(before, after)
    assert task.note == "most of this gain is the format: graded leniently it is +5.0 points"
    learnt = {"t": records("t", strict=[1] * 20, lenient=[1] * 20)}
    assert compare_records(before, learnt)[0].note == ""


def test_texts_are_compared_by_bits_per_byte() -> None:
    """(20 + 40) nats over 30 bytes against 45 nats: 2 and 1.5 nats a byte, in bits 0.7213 fewer."""
    (task,) = compare_records({"p": texts(-20.0, -40.0)}, {"p": texts(-15.0, -30.0)})
    assert (task.grader, task.better, task.p_holm) == ("bits_per_byte", "lower", None)
    assert task.headline.before.estimate == pytest.approx(2 / math.log(2))
    assert task.headline.difference.estimate == pytest.approx(-0.5 / math.log(2))
    assert task.headline.difference.low <= task.headline.difference.high < 0


def test_how_many_questions_a_change_needs_is_told() -> None:
    before = {"t": records("t", correct=[0, 1] * 50)}
    (few,) = compare_records(before, before, change=0.02)
    (fewer,) = compare_records(before, before, change=0.1)
    assert few.needed is not None
    assert fewer.needed is not None
    assert few.needed > fewer.needed > 10


def test_other_questions_are_refused() -> None:
    one, other = {"t": records("t", correct=[0, 1])}, {"t": records("t", correct=[0, 1, 1])}
    with pytest.raises(DataError, match="task 't': 2 questions before and 3 after"):
        compare_records(one, other)
    with pytest.raises(DataError, match="no task was measured on both sides: t before, u after"):
        compare_records(one, {"u": records("u", correct=[0])})
    changed = {"t": [*one["t"][:1], *texts(0.0, 0.0)[1:]]}
    with pytest.raises(DataError, match="task 't', row 2: 'q2' before and 't' after"):
        compare_records(one, changed)


def test_the_gate_decides_on_the_headlines() -> None:
    gate = GateConfig(targets=[{"task": "t", "min_gain": 0.1}], retention=[{"task": "r", "max_loss": 0.1}])
    before = {"t": records("t", correct=[0] * 40), "r": records("r", correct=[1] * 60)}
    after = {"t": records("t", correct=[1] * 20 + [0] * 20), "r": records("r", correct=[1] * 60)}
    decision = decide_on(gate, before, after, path="tuned", kl=None)
    assert (decision.status, decision.promoted) == (0, "tuned")
    worse = {**after, "r": records("r", correct=[1] * 40 + [0] * 20)}
    assert decide_on(gate, before, worse, path="tuned", kl=None).status == 4
    with pytest.raises(DataError, match="the gate names task 'r'"):
        decide_on(gate, {"t": before["t"]}, after, path="tuned", kl=None)


def test_directories_are_read_and_the_comparison_is_json(tmp_path: Path) -> None:
    for side, values in (("a", [0.0, None]), ("b", [1.0, 1.0])):
        write_records(
            tmp_path / side / "t.jsonl", records("t", correct=values), task="t",
            settings={"kind": "generation", "seed": len(side), "samples": 1, "model": side, "temperature": values[0]},
        )  # fmt: skip
        (tmp_path / side / "scores.json").write_text(json.dumps({"t": {}, "unfinished": {}}))
    before, after = read_evaluation(tmp_path / "a"), read_evaluation(tmp_path / "b")
    notes = differing_settings(tmp_path / "a", tmp_path / "b", ["t"])
    assert notes == ["t: before and after were made with temperature 0.0 and 1.0"]
    tasks = (*compare_records(before, after), *compare_records({"p": texts(-1.0)}, {"p": texts(-2.0)}))
    comparison = Comparison(before="a", after="b", tasks=tasks, notes=tuple(notes))
    write_comparison(tmp_path / "comparison.json", comparison)
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored["tasks"]["t"]["gained"] == [1]
    assert stored["tasks"]["p"]["difference"]["low"] is None  # one text has no interval
    assert stored["drift"] is stored["gate"] is None
    with pytest.raises(DataError, match="holds no records of an evaluation"):
        read_evaluation(tmp_path)

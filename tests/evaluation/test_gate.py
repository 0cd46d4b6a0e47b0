"""The gate: what is promoted, what is not, and what it says about it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate_errors import by_gate, error_rates, graded_error_rates, p_steps
from posttrain.config.gate import GateConfig
from posttrain.errors import DataError
from posttrain.evaluation.gate import Checkpoint, decide, error_shares, too_small_sets
from posttrain.stats import questions_needed

START = {"name": [0.0] * 50, "facts": [1.0] * 380 + [0.0] * 20}
GATE = GateConfig(
    targets=[{"task": "name", "min_gain": 0.3}], retention=[{"task": "facts", "max_loss": 0.03}], max_kl=0.5
)


def after(step: int, *, named: int, forgot: int = 0, learnt: int = 0, kl: float | None = 0.1) -> Checkpoint:
    """A checkpoint that names itself in so many of 50 and forgot and learnt so many of 400 facts."""
    facts = [0.0] * forgot + [1.0] * (380 - forgot + learnt) + [0.0] * (20 - learnt)
    grades = {"name": [1.0] * named + [0.0] * (50 - named), "facts": facts}
    return Checkpoint(step=step, path=f"run/checkpoint-{step}", grades=grades, kl=kl)


def test_a_good_checkpoint_is_promoted_and_the_sentence_says_what_it_gained_and_lost() -> None:
    decision = decide(START, [after(100, named=45, forgot=3, learnt=1)], GATE)
    assert (decision.status, decision.verdict, decision.promoted) == (0, "promoted", "run/checkpoint-100")
    assert decision.sentence.startswith(
        "Promoted: name gained 90 points (0.0% to 90.0%); facts lost 0.5 points, surely less than "
    )
    assert decision.sentence.endswith("(3 allowed); it drifted 0.1 nats a token from the start (0.5 allowed).")


def test_an_earlier_checkpoint_is_promoted_when_the_last_lost_too_much() -> None:
    decision = decide(
        START, [after(100, named=30), after(200, named=40, forgot=1), after(300, named=50, forgot=80)], GATE
    )
    assert (decision.status, decision.verdict, decision.promoted) == (3, "earlier", "run/checkpoint-200")
    assert decision.sentence.startswith(
        "Step 200 is promoted instead of the last, step 300, which lost 20 points on facts (95.0% to 75.0%), "
        "where 3 are allowed. Step 200: name gained 80 points"
    )
    assert [result.passed for result in decision.checkpoints] == [True, True, False]


def test_none_is_promoted_when_none_passes() -> None:
    decision = decide(START, [after(100, named=2), after(200, named=40, forgot=80, kl=0.9)], GATE)
    assert (decision.status, decision.verdict, decision.promoted) == (4, "none", None)
    assert decision.sentence == (
        "None of the 2 checkpoints is promoted. The last, step 200, lost 20 points on facts (95.0% to 75.0%), where 3 "
        "are allowed, and drifted 0.9 nats a token from the start, where 0.5 are allowed. The one before it, step 100, "
        "gained 4 points on the target name (0.0% to 4.0%), where a gain of 30 points is asked."
    )
    three = decide(START, [after(100, named=2), after(150, named=40, forgot=90), after(200, named=2)], GATE)
    assert three.sentence.endswith("Of the 2 before it, 1 lost too much or may have, 1 gained too little.")


def test_most_gain_wins_and_the_later_of_two_equals() -> None:
    best = decide(START, [after(100, named=50), after(200, named=40)], GATE)
    assert (best.status, best.promoted) == (0, "run/checkpoint-100")  # the last passes, another is better
    assert best.sentence.startswith("Step 100 is promoted, which gained most of the 2 that pass: ")
    assert decide(START, [after(200, named=40), after(100, named=40)], GATE).promoted == "run/checkpoint-200"


def test_drift_beyond_the_budget_fails() -> None:
    decision = decide(START, [after(100, named=45, kl=0.7)], GATE)
    assert decision.status == 4
    assert decision.sentence == ("Not promoted: it drifted 0.7 nats a token from the start, where 0.5 are allowed.")
    assert decide(START, [after(100, named=45, kl=math.nan)], GATE).status == 4
    without = GATE.replace(max_kl=None)
    assert decide(START, [after(100, named=45, kl=None)], without).status == 0


def test_a_retention_set_that_is_too_small_is_named_with_what_is_needed() -> None:
    start = {"facts": [1.0] * 40}
    gate = GateConfig(retention=[{"task": "facts", "max_loss": 0.02}])
    decision = decide(start, [Checkpoint(step=1, path="m", grades=start)], gate)
    result = decision.checkpoints[0].retention[0]
    # (0 + 1) / (40 + 1) of the answers are taken to change
    assert result.needed == questions_needed(1 / 41, threshold=-0.02)
    assert (decision.status, result.too_small, result.loss.estimate) == (4, True, 0.0)
    assert "may have lost as much as 7.2 points on facts (100.0% to 100.0%), where 2 are allowed" in decision.sentence
    assert decision.sentence.endswith(f"(40 questions are too few to tell, about {result.needed} are needed).")
    enough = {"facts": [1.0] * 200}
    large = decide(enough, [Checkpoint(step=1, path="m", grades=enough)], gate)
    assert (large.status, large.checkpoints[0].retention[0].too_small) == (0, False)


def test_a_loss_that_is_certain_is_not_put_down_to_the_size_of_the_set() -> None:
    result = decide(START, [after(100, named=45, forgot=60)], GATE).checkpoints[0].retention[0]
    assert (result.passed, result.too_small) == (False, False)
    assert result.loss.low > 0.03


def test_sets_that_are_too_small_are_known_beforehand() -> None:
    said = too_small_sets(GATE, {"facts": 60, "name": 5})
    assert said == [
        "facts: 60 questions are too few to rule out a loss of 3 points; 99 are needed if no answer changes, "
        f"about {questions_needed(0.05, threshold=-0.03)} if one in twenty does"
    ]
    assert too_small_sets(GATE, {"facts": 1000}) == []


def test_a_gain_that_may_be_chance_is_no_gain() -> None:
    start = {"name": [0.0] * 20}
    gate = GateConfig(targets=[{"task": "name", "min_gain": 0.05}])
    lucky = Checkpoint(step=1, path="m", grades={"name": [1.0] * 2 + [0.0] * 18})
    decision = decide(start, [lucky], gate)
    assert decision.status == 4  # 10 points measured, 5 asked: two of twenty
    assert "gained 10 points on the target name (0.0% to 10.0%), which may be chance (20 questions are too few" in (
        decision.sentence
    )
    luckier = Checkpoint(step=1, path="m", grades={"name": [1.0] * 8 + [0.0] * 12})
    assert decide(start, [luckier], gate).status == 0
    worse = decide({"name": [1.0] * 20}, [lucky], gate)
    assert "lost 90 points on the target name" in worse.sentence


def test_the_error_is_shared_among_the_checkpoints() -> None:
    # Nothing changes in 110 questions and 4 points are allowed: p = 0.96^110 = 0.011. Alone it passes at 5 %; the
    # first of five has 5 % / 8 of its own and fails, and so do those after it, while the last has 2.5 % and passes.
    same = {"facts": [1.0] * 110}
    gate = GateConfig(retention=[{"task": "facts", "max_loss": 0.04}])
    five = [Checkpoint(step=i, path=str(i), grades=same) for i in range(1, 6)]
    assert decide(same, five[:1], gate).status == 0
    decision = decide(same, five, gate)
    assert [result.passed for result in decision.checkpoints] == [False] * 4 + [True]
    assert [result.retention[0].level for result in decision.checkpoints] == pytest.approx([0.99375] * 4 + [0.975])
    assert error_shares(5, 0.05) == pytest.approx([0.00625] * 4 + [0.025])
    assert error_shares(1, 0.05) == [0.05]


def test_bounds_agree_with_what_passes() -> None:
    rng = np.random.default_rng(4)
    gate = GateConfig(targets=[{"task": "name"}], retention=[{"task": "facts", "max_loss": 0.03}])
    for _ in range(12):
        named, forgot = int(rng.integers(0, 8)), int(rng.integers(0, 9))
        result = decide(START, [after(1, named=named, forgot=forgot)], gate).checkpoints[0]
        assert result.retention[0].passed == (result.retention[0].loss.high <= 0.03)
        assert result.targets[0].passed == (result.targets[0].gain.low > 0)


def test_graded_answers_are_decided_on_too() -> None:
    start = {"essays": [0.5, 0.75] * 100}
    gate = GateConfig(retention=[{"task": "essays", "max_loss": 0.05}])
    slightly = Checkpoint(step=1, path="m", grades={"essays": [0.5, 0.7] * 100})
    badly = Checkpoint(step=1, path="m", grades={"essays": [0.25, 0.75] * 100})
    assert decide(start, [slightly], gate).status == 0
    assert decide(start, [badly], gate).status == 4


def test_the_whole_interval_of_the_drift_must_be_within_the_budget() -> None:
    def drifted(high: float | None) -> Checkpoint:
        return dataclasses.replace(after(100, named=45, kl=0.4), kl_high=high)

    assert decide(START, [drifted(None)], GATE).status == 0  # without an interval, as measured
    assert decide(START, [drifted(0.5)], GATE).status == 0
    decision = decide(START, [drifted(0.51)], GATE)
    assert decision.status == 4
    assert "drifted 0.4 nats a token, at most 0.51, from the start, where 0.5 are allowed" in decision.sentence


def test_questions_that_could_not_be_compared_are_counted() -> None:
    decision = decide(START, [after(100, named=45)], GATE, left_out={"name": 0, "facts": 3})
    assert decision.sentence.endswith("Questions left out, since an answer to them could not be judged: 3 of facts.")
    assert decision.as_dict()["left_out"] == {"facts": 3}
    assert "left out" not in decide(START, [after(100, named=45)], GATE).sentence


def test_the_decision_is_plain_json() -> None:
    written = json.loads(
        json.dumps(decide(START, [after(100, named=45, kl=math.inf)], GATE).as_dict(), allow_nan=False)
    )
    assert {"status", "verdict", "sentence", "promoted", "checkpoints", "left_out"} == written.keys()
    checkpoint = written["checkpoints"][0]
    assert {
        "step",
        "path",
        "passed",
        "targets",
        "retention",
        "kl",
        "kl_high",
        "max_kl",
        "kl_passed",
    } == checkpoint.keys()
    assert (checkpoint["kl"], checkpoint["kl_passed"]) == (None, False)
    assert {"task", "min_gain", "gain", "passed"} <= checkpoint["targets"][0].keys()
    assert {"task", "max_loss", "loss", "passed", "too_small", "n", "needed"} <= checkpoint["retention"][0].keys()
    assert checkpoint["retention"][0]["loss"].keys() == {"estimate", "low", "high", "n"}


@pytest.mark.parametrize(
    ("checkpoints", "message"),
    [
        ([], "no checkpoint to decide on"),
        ([after(1, named=1), after(1, named=2)], "two checkpoints of one step"),
        (
            [Checkpoint(step=7, path="m", grades={"nam": [1.0]}, kl=0.1)],
            "'name', on which step 7 was not measured; did",
        ),
        ([Checkpoint(step=7, path="m", grades={**START, "facts": [1.0]}, kl=0.1)], "1 questions at step 7 and 400 at"),
        ([Checkpoint(step=7, path="m", grades={**START, "facts": [3.0] * 400}, kl=0.1)], "has the grade 3.0; the gate"),
        ([Checkpoint(step=7, path="m", grades={**START, "facts": []}, kl=0.1)], "step 7 has no graded answer"),
        ([after(7, named=50, kl=None)], "max_kl=0.5, but the drift of step 7 was not measured"),
    ],
)
def test_what_cannot_be_decided_is_refused(checkpoints: list[Checkpoint], message: str) -> None:
    with pytest.raises(DataError) as caught:
        decide(START, checkpoints, GATE)
    assert message in str(caught.value)


# Its error rates


def test_at_a_loss_of_exactly_what_is_forbidden_it_promotes_no_more_often_than_it_says() -> None:
    rows = list(error_rates(1000, sizes=((200, 0.05),), checkpoints=((0, 5), (2, 5)), correlations=(0.0, 0.8)))
    assert len(rows) == 4
    for *_, gate, _, uncorrected in rows:
        assert float(gate.rstrip("%")) <= 5 + 3 * 0.7  # three standard errors of 1,000 runs
        assert float(uncorrected.rstrip("%")) > 8
    for *_, gate in graded_error_rates(500, sizes=((200, 0.05),)):
        assert float(gate.rstrip("%")) <= 5 + 3 * 1.0


def test_the_simulation_decides_as_the_gate_does() -> None:
    rng = np.random.default_rng(0)
    n = 80
    gate = GateConfig(retention=[{"task": "facts", "max_loss": 0.06}])
    gained, lost = rng.integers(0, 3, (15, 3)), rng.integers(0, 4, (15, 3))
    said = by_gate(p_steps(gained, lost, n, 0.06))
    start = {"facts": [1.0] * 40 + [0.0] * 40}
    for run in range(15):
        checkpoints = []
        for i in range(3):
            g, b = int(gained[run, i]), int(lost[run, i])
            facts = [0.0] * b + [1.0] * (40 - b) + [1.0] * g + [0.0] * (40 - g)
            checkpoints.append(Checkpoint(step=i, path=str(i), grades={"facts": facts}))
        assert [result.passed for result in decide(start, checkpoints, gate).checkpoints] == said[run].tolist()
    assert 0 < said.sum() < said.size


def test_the_page_on_the_gate_says_what_is_so(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
    (tmp_path / "gate.yaml").write_text(page.split("```text\n")[1].split("```")[0])
    gate = GateConfig.from_yaml(tmp_path / "gate.yaml")
    assert (gate.task_names(), gate.max_kl, gate.level) == (["identity", "battery"], 0.5, 0.95)
    fields = page.split("| field |")[1].split("\n\n")[0]
    assert {name.strip("| `") for name in re.findall(r"^\| `\w+` \|", fields, re.MULTILINE)} == {
        *GateConfig.model_fields
    }
    head, _, *rows = page.split("## Choosing")[1].split("\n\n")[2].splitlines()
    losses = [float(name.split()[0]) / 100 for name in head.strip("| ").split(" | ")[1:]]
    for row in rows:
        changed, *needed = row.strip("| ").split(" | ")
        share = float(changed.rstrip("%")) / 100
        assert needed == [f"{questions_needed(share, threshold=-loss):,}" for loss in losses]
    assert len(rows) == 5

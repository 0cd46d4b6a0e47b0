"""gate.yaml: what is read, and what is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config.gate import GateConfig, Retention, Target
from posttrain.errors import ConfigError

GATE = """\
targets:
  - task: identity
    min_gain: 0.3
retention:
  - {task: battery, max_loss: 0.02}
  - task: arithmetic
    max_loss: 5e-2
max_kl: 0.5
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_gate_is_read_and_written_back(tmp_path: Path) -> None:
    gate = GateConfig.from_yaml(write(tmp_path / "gate.yaml", GATE))
    assert [(t.task, t.min_gain) for t in gate.targets] == [("identity", 0.3)]
    assert [(r.task, r.max_loss) for r in gate.retention] == [("battery", 0.02), ("arithmetic", 0.05)]
    assert (gate.max_kl, gate.level, gate.tasks) == (0.5, 0.95, None)
    assert gate.task_names() == ["identity", "battery", "arithmetic"]
    again = GateConfig.from_yaml(write(tmp_path / "again.yaml", gate.to_yaml()))
    assert again.to_dict() == gate.to_dict()


def test_a_gate_is_made_in_python() -> None:
    gate = GateConfig(targets=[Target(task="a")], retention=[{"task": "b", "max_loss": 0.1}], level=0.9)
    assert isinstance(gate.retention[0], Retention)
    assert gate.targets[0].min_gain == 0.0
    assert GateConfig(**gate.to_dict()).to_dict() == gate.to_dict()
    assert gate.replace(level=0.8).retention[0].max_loss == 0.1


def test_tasks_beside_the_gate_are_found_from_anywhere(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "name: mine")
    gate = GateConfig.from_yaml(write(tmp_path / "gate.yaml", GATE + "tasks: mine.yaml\n"))
    assert gate.tasks == str(tmp_path / "mine.yaml")
    gate = GateConfig.from_yaml(write(tmp_path / "gate.yaml", GATE + "tasks: [mine.yaml, identity, {file: x.jsonl}]\n"))
    assert gate.tasks == [str(tmp_path / "mine.yaml"), "identity", {"file": "x.jsonl"}]
    assert gate.home == tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GATE + "max_lk: 1\n", "gate.yaml line 9: unknown field 'max_lk'; did you mean 'max_kl'?"),
        ("retention:\n  - task: a\n    max_lost: 0.1\n", "gate.yaml line 3: unknown field 'max_lost'; did you mean"),
        ("retention:\n  - task: a\n", "gate.yaml line 2: max_loss is missing: Loss that must be ruled out"),
        ("retention:\n  - task: a\n    max_loss: 2\n", "gate.yaml line 3: max_loss=2 is not allowed"),
        ("retention: [{task: a, max_loss: 0}]", "max_loss=0 is not allowed; max_loss takes a number above 0"),
        ("targets:\n  - task: a\n    min_gain: -0.1\n", "gate.yaml line 3: min_gain=-0.1 is not allowed"),
        ("targets:\n  - identity\n", "gate.yaml line 2: an entry of targets is {task: ..., min_gain: ...}, not"),
        ("targets: identity\n", "gate.yaml line 1: targets must be a list"),
        ("level: 0.95\n", "the gate asks for nothing"),
        (GATE + "level: 95\n", "gate.yaml line 9: level=95 is not allowed"),
        ("targets: [{task: a}, {task: a}]", "gate.yaml line 1: task 'a' stands twice"),
        ("targets: [{task: a}]\nretention: [{task: a, max_loss: 0.1}]", "gate.yaml line 2: task 'a' stands twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GateConfig.from_yaml(write(tmp_path / "gate.yaml", text))
    assert message in str(caught.value)


def test_all_wrong_entries_are_named_at_once(tmp_path: Path) -> None:
    text = "targets:\n  - {task: a, gain: 1}\nretention:\n  - {task: b}\n"
    with pytest.raises(ConfigError) as caught:
        GateConfig.from_yaml(write(tmp_path / "gate.yaml", text))
    assert "line 2: unknown field 'gain'" in str(caught.value)
    assert "line 4: max_loss is missing" in str(caught.value)

"""Rewards by name, and functions in files and modules."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import RewardError
from posttrain.rewards.names import REWARDS, about, make_reward

EXAMPLES: dict[str, dict[str, Any]] = {  # options of those that cannot do without
    "regex_match": {"pattern": "a"},
    "length": {"target": 5},
    "soft_overlong_punishment": {"max_completion_length": 20, "soft_punish_cache": 5},
    "reward_model": {"model": "somebody/reward-model"},  # loaded when it is first needed
    "judge": {"url": "http://localhost:1/v1", "model": "m"},
    "pairwise_judge": {"url": "http://localhost:1/v1", "model": "m"},
}


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("name", REWARDS)
def test_every_name_makes_a_reward_of_that_name(name: str) -> None:
    reward = make_reward({"name": name, **EXAMPLES.get(name, {})})
    assert reward.__name__ == name
    accepts = inspect.signature(reward).parameters.values()
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepts)
    assert about(name).startswith(f"{name}: ")
    assert REWARDS[name][2]


def test_every_reward_of_the_verifiers_has_a_name() -> None:
    """A factory is a public function that says it returns a Reward."""
    for module in {module for module, _, _ in REWARDS.values()}:
        found = {
            name
            for name, value in vars(importlib.import_module(module)).items()
            if inspect.isfunction(value)
            and not name.startswith("_")
            and "Reward" in str(value.__annotations__.get("return"))
        }
        assert found <= {factory for _, factory, _ in REWARDS.values()}


def test_naming_a_reward_loads_no_verifier() -> None:
    code = (
        "import sys, posttrain.rewards.names\n"
        "heavy = {'torch', 'math_verify', 'sympy', 'jsonschema', 'langdetect', 'httpx2'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_functions_are_given_back() -> None:
    assert make_reward(len) is len


MINE = """\
from dataclasses import dataclass
import beside

@dataclass
class Limits:
    most: "int" = 3

def short(completions, most=3, **kwargs):
    return [float(len(text) <= Limits(most).most) for text in completions]

async def later(completions):
    return [beside.VALUE] * len(completions)

class Verifiers:
    @staticmethod
    def one(completions, **kwargs):
        return [1.0] * len(completions)

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("VALUE = 0.25\n")
    return str(tmp_path / "mine.py")


def test_a_function_in_a_file(mine: str) -> None:
    path = list(sys.path)
    short = make_reward(f"{mine}:short")
    assert short(completions=["abc", "abcd"]) == [1.0, 0.0]
    tight = make_reward({"name": f"{mine}:short", "most": 2})
    assert isinstance(tight, functools.partial)
    assert tight(completions=["abc", "ab"]) == [0.0, 1.0]
    assert make_reward(f"{mine}:Verifiers.one")(completions=["a"]) == [1.0]
    assert inspect.iscoroutinefunction(make_reward(f"{mine}:later"))
    assert sys.path[: len(path)] == path  # a file beside it hides no module


def test_a_file_that_was_changed_is_loaded_anew(mine: str) -> None:
    make_reward(f"{mine}:short")
    Path(mine).write_text("def short(completions):\n    return [9.0] * len(completions)\n")
    assert make_reward(f"{mine}:short")(completions=["a"]) == [9.0]


def test_a_function_in_a_module() -> None:
    assert make_reward("posttrain.rewards.columns:completion_text")("a") == "a"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("boxed_answr", "no reward 'boxed_answr'; did you mean 'boxed_answer'?"),
        ("boxed", "no reward 'boxed'; did you mean 'boxed_answer'?"),
        ("xyzzy", "no reward 'xyzzy' (rewards: boxed_answer, "),
        ("", "no reward '' (rewards: "),
        ({"name": "length", "taget": 5}, "reward 'length' has no option 'taget'; did you mean 'target'?"),
        ({"name": "length", "zzz": 5}, "reward 'length' has no option 'zzz'; length has target, minimum, "),
        ({"name": "regex_match"}, "reward 'regex_match' needs the option 'pattern'"),
        ({"target": 5}, "has no name; write {'name': 'length', ...}"),
        (None, "NoneType None is no reward"),
        (3, "int 3 is no reward"),
        ("MINE:shrt", "has no 'shrt'; did you mean 'short'?"),
        ("MINE:number", "is int 3; it must be a function"),
        ("MINE", "names no function; write MINE:short (it defines short, later)"),
        ("MINE:", "names no function; write MINE:short"),
        ("HERE/min.py:short", "'HERE/min.py' is not there; did you mean 'mine.py'?"),
        ("HERE/broken.py:f", "'HERE/broken.py' cannot be loaded: line 2: ZeroDivisionError: division by zero"),
        ("HERE/unfinished.py:f", "cannot be loaded: SyntaxError: '(' was never closed (unfinished.py, line 1)"),
        ("no_such_module:f", "there is no module 'no_such_module'; a file is named by its path"),
        ("posttrain.rewards.columns:text", "posttrain.rewards.columns has no 'text'"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named_with_the_nearest(spec: Any, message: str, mine: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("VALUE = 1\nVALUE / 0\n")
    (tmp_path / "unfinished.py").write_text("VALUE = (\n")
    if isinstance(spec, str):
        spec = spec.replace("MINE", mine).replace("HERE", str(tmp_path))
    message = message.replace("MINE", mine).replace("HERE", str(tmp_path))
    with pytest.raises(RewardError, match=re.escape(message)):
        make_reward(spec)


def test_the_table_of_the_page_has_every_reward_with_its_options() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    table = page.split("## Built-in rewards")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", table, re.MULTILINE)
    assert [name for name, _ in rows] == list(REWARDS)
    for name, said in rows:
        options = set(re.findall(r"`(\w+)`", said))
        if "boxed_answer" in options:
            options = (options - {"boxed_answer"}) | {"column", "strip_units", "ignore_case", "after_think"}
        module, factory, _ = REWARDS[name]
        assert options == set(inspect.signature(getattr(importlib.import_module(module), factory)).parameters), name

"""Several rewards together: how they are called, what they may return, and what is said when they break."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.errors import RewardError, SamplingError
from posttrain.rewards.combination import RewardSet, Scored
from posttrain.types import Unjudged


def score(functions: Any, count: int = 3, **given: Any) -> Scored:
    weights, names, extras = (given.pop(key, None) for key in ("weights", "names", "extras"))
    arguments = {
        "prompts": [f"p{n}" for n in range(count)],
        "completions": [f"c{n}" for n in range(count)],
        "completion_ids": [[n] for n in range(count)],
        "columns": {},
    } | given
    with RewardSet(functions, weights=weights, names=names) as rewards:
        return rewards.score(**arguments, extras=extras)


def constant(*values: Any) -> Callable[..., Any]:
    def constant(**kwargs: Any) -> Any:
        return list(values)

    return constant


# Calls


def test_the_tutorials_function_works_as_written() -> None:
    def reward_func(completions, ground_truth, **kwargs):  # type: ignore[no-untyped-def]
        matches = [re.search(r"\\boxed\{(.*?)\}", completion[0]["content"]) for completion in completions]
        contents = [match.group(1) if match else "" for match in matches]
        return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]

    texts = ["It is \\boxed{7}.", "It is \\boxed{8}.", "It is 7."]
    scored = score(
        reward_func,
        prompts=[[{"role": "user", "content": "3 + 4?"}]] * 3,
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        columns={"ground_truth": ["7", "7", "7"]},
    )
    assert scored.by_name == {"reward_func": [1.0, 0.0, 0.0]}
    assert scored.total == [1.0, 0.0, 0.0]
    assert scored.unjudged == {"reward_func": 0}


def test_functions_get_what_they_take_by_keyword() -> None:
    seen: dict[str, Any] = {}

    def narrow(completions: Any, level: Any) -> list[float]:
        seen["narrow"] = (completions, level)
        return [0.0] * len(completions)

    def wide(prompts: Any, **kwargs: Any) -> list[float]:
        seen["wide"] = kwargs
        return [0.0] * len(prompts)

    def scaled(completions: Any, factor: int, trainer_state: Any = None) -> list[int]:
        seen["scaled"] = trainer_state
        return [factor] * len(completions)

    columns = {"level": [1, 2, 3], "prompt": ["x"] * 3, "completion": ["x"] * 3}
    scored = score([narrow, wide, functools.partial(scaled, factor=4)], columns=columns, extras={"trainer_state": "s"})
    assert seen["narrow"] == (["c0", "c1", "c2"], [1, 2, 3])
    assert seen["wide"] == {
        "completions": ["c0", "c1", "c2"], "completion_ids": [[0], [1], [2]], "level": [1, 2, 3], "trainer_state": "s",
    }  # fmt: skip
    assert seen["scaled"] == "s"
    assert scored.by_name["scaled"] == [4.0, 4.0, 4.0]


def test_texts_alone_can_be_graded() -> None:
    def ids(completions: Any, completion_ids: Any) -> list[float]:
        return [float(len(tokens)) for tokens in completion_ids]

    assert score(ids).total == [1.0] * 3
    with pytest.raises(RewardError, match=r"'ids' takes completion_ids, and only the texts are known"):
        score(ids, completion_ids=None)
    assert score(constant(1, 2, 3), completion_ids=None).total == [1.0, 2.0, 3.0]


def test_coroutine_functions_wait_together_and_on_one_loop() -> None:
    loops, open_now, most = [], 0, 0

    async def slow(completions: Any, **kwargs: Any) -> list[float]:
        nonlocal open_now, most
        loops.append(asyncio.get_running_loop())
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.2)
        open_now -= 1
        return [1.0] * len(completions)

    class Asks:
        async def __call__(self, completions: Any) -> list[float]:
            return await slow(completions)

    with RewardSet([slow, Asks(), lambda completions: slow(completions)], names=["a", "b", "c"]) as rewards:
        for _ in range(2):
            scored = rewards.score(prompts=["p"], completions=["c"], completion_ids=[[1]], columns={})
        assert scored.total == [3.0]
    assert most == 2
    assert len(set(map(id, loops))) == 1
    assert "rewards" not in {thread.name for thread in threading.enumerate()}


def test_coroutine_functions_work_inside_a_running_loop() -> None:
    async def later(completions: Any) -> list[float]:
        await asyncio.sleep(0)
        return [0.5] * len(completions)

    async def notebook() -> Scored:
        return score(later)

    assert asyncio.run(notebook()).total == [0.5] * 3


def test_ordinary_functions_are_called_in_turn_in_this_thread() -> None:
    order = []

    def note(name: str) -> Callable[..., list[float]]:
        def function(completions: Any) -> list[float]:
            order.append((name, threading.current_thread() is threading.main_thread()))
            return [0.0] * len(completions)

        return function

    score([note("first"), note("second")])
    assert order == [("first", True), ("second", True)]


def test_no_completions_call_nothing() -> None:
    def broken(**kwargs: Any) -> Any:
        raise AssertionError

    assert score(broken, count=0).total == []


# Totals


def test_totals_are_weighted_sums_of_what_applies() -> None:
    late = Unjudged("timed out after 2 s")
    scored = score(
        [constant(1, None, None, 2, None), constant(3, 4, None, late, late)], count=5, weights=[2.0, -0.5],
        names=["a", "b"],
    )  # fmt: skip
    assert scored.total == [0.5, -2.0, None, None, None]  # 2 x 1 - 0.5 x 3; -0.5 x 4
    assert scored.by_name == {"a": [1.0, None, None, 2.0, None], "b": [3.0, 4.0, None, None, None]}
    assert scored.reasons == {"a": {}, "b": {3: "timed out after 2 s", 4: "timed out after 2 s"}}
    assert scored.unjudged == {"a": 0, "b": 2}


def test_a_reward_of_weight_zero_is_shown_and_not_used() -> None:
    scored = score([constant(1, 1, None), constant(Unjudged("died"), 9, 9)], weights=[1, 0], names=["a", "shown"])
    assert scored.total == [1.0, 1.0, None]
    assert scored.by_name["shown"] == [None, 9.0, 9.0]
    assert scored.unjudged == {"a": 0, "shown": 1}


# Values


@pytest.mark.parametrize(
    "values",
    [
        [1, 0.5, None], (True, 0.5, None), [np.float32(1), np.float64(0.5), None],
        [torch.tensor(1.0), np.array(0.5), None],
        [np.bool_(True), torch.tensor(0.5, dtype=torch.bfloat16), None],
    ],
)  # fmt: skip
def test_numbers_of_all_kinds_are_rewards(values: Any) -> None:
    (column,) = score(lambda completions: values).by_name.values()
    assert column == [1.0, 0.5, None]
    assert [type(value) for value in column] == [float, float, type(None)]


@pytest.mark.parametrize("whole", [torch.tensor([1.0, 2, 3]), np.array([1, 2, 3])])
def test_arrays_are_lists_of_rewards(whole: Any) -> None:
    assert score(lambda completions: whole).total == [1.0, 2.0, 3.0]


PLACES = ["row 17 of train.jsonl, completion 1", "row 17 of train.jsonl, completion 2", "row 18 of train.jsonl"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0, math.nan, 0], "returned nan for row 17 of train.jsonl, completion 2; a value must be finite"),
        ([0, 0, -math.inf], "returned -inf for row 18 of train.jsonl"),
        ([0, 0, 10**400], "returned inf for row 18 of train.jsonl"),
        ([0, torch.tensor(math.nan), 0], "returned nan for row 17"),
        ([0, "1.0", 0], "returned str '1.0' for row 17 of train.jsonl, completion 2; a value must be a number"),
        ([[0], 0, 0], "returned list [0] for row 17 of train.jsonl, completion 1"),
        ([0, torch.zeros(1), 0], "returned Tensor tensor([0.]) for row 17 of train.jsonl, completion 2"),
        ([0, 0], "returned 2 values for 3 completions"),
        ([], "returned 0 values for 3 completions"),
        (torch.zeros(3, 1), "returned Tensor tensor([[0.]"),
        (0.5, "returned float 0.5; it must return a list with one value for each of the 3 completions"),
        (None, "returned NoneType None; it must return a list"),
        ({"a": 1}, "returned dict"),
    ],
)
def test_what_is_no_reward_is_refused_with_function_and_row(returned: Any, message: str) -> None:
    def mine(**kwargs: Any) -> Any:
        return returned

    with pytest.raises(RewardError, match=re.escape(f"reward 'mine' {message}")):
        score([constant(0, 0, 0), mine], places=PLACES)


# Exceptions


def test_an_exception_names_function_row_and_line() -> None:
    def parses(completions: Any, ground_truth: Any) -> list[float]:
        return [float(int(text)) for text in ground_truth]

    with pytest.raises(RewardError) as caught:
        score(parses, columns={"ground_truth": ["1", "one", "two"]}, places=PLACES)
    line = parses.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        "reward 'parses' raised for row 17 of train.jsonl, completion 2: ValueError: invalid literal for int() with "
        f"base 10: 'one' ({__file__} line {line})"
    )
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_exception_in_a_coroutine_function_names_the_row() -> None:
    async def fails(completions: Any, **kwargs: Any) -> list[float]:
        return [1 / (text != "c2") for text in completions]

    with pytest.raises(RewardError, match=r"reward 'fails' raised for completion 3 of 3: ZeroDivisionError") as caught:
        score([constant(0, 0, 0), fails])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_exception_of_no_single_row_says_so() -> None:
    def together(completions: Any) -> list[float]:
        raise KeyError("batch") if len(completions) > 1 else StopIteration

    def only_many(completions: Any) -> list[float]:
        if len(completions) > 1:
            raise KeyError("batch")
        return [0.0]

    with pytest.raises(RewardError, match=r"raised for 3 completions together, for none alone: KeyError: 'batch'"):
        score(only_many)
    with pytest.raises(RewardError, match=r"raised for completion 1 of 3: KeyError"):
        score(together)


def test_a_server_that_is_gone_is_no_rows_fault() -> None:
    calls = []

    def asks(completions: Any) -> list[float]:
        calls.append(len(completions))
        raise SamplingError("http://localhost:1: nobody answers")

    with pytest.raises(RewardError, match=r"^reward 'asks': http://localhost:1: nobody answers$"):
        score(asks)
    assert calls == [3]


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(RewardError, match=r"'answer' has 2 values for 3 completions"):
        score(constant(0, 0, 0), columns={"answer": ["a", "b"]})


# Construction


def test_names_are_those_of_the_functions_and_unique() -> None:
    def length(**kwargs: Any) -> Any: ...

    def other(**kwargs: Any) -> Any: ...

    other.__name__ = "length_2"

    class Verifier:
        def __call__(self, **kwargs: Any) -> Any: ...

    functions = [length, other, length, functools.partial(length, a=1), lambda **kwargs: None, Verifier()]
    assert RewardSet(functions).names == ["length", "length_2", "length_3", "length_4", "lambda", "Verifier"]
    assert RewardSet([length, length], names=["a", "b"]).names == ["a", "b"]
    assert RewardSet(length).weights == [1.0]


def test_rewards_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def short(completions, most=2, **kwargs):\n    return [float(len(c) <= most) for c in completions]\n"
    )
    rewards = RewardSet(["boxed_answer", f"{file}:short", {"name": f"{file}:short", "most": 1}])
    assert rewards.names == ["boxed_answer", "short", "short_2"]
    scored = rewards.score(
        prompts=["?"], completions=["ab"], completion_ids=[[1]], columns={"ground_truth": ["7"]},
    )  # fmt: skip
    assert scored.by_name == {"boxed_answer": [0.0], "short": [1.0], "short_2": [0.0]}


@pytest.mark.parametrize(
    ("functions", "given", "message"),
    [
        ([], {}, "no reward: give at least one"),
        ([None], {}, "NoneType None is no reward"),
        ([3], {}, "int 3 is no reward"),
        ([torch.nn.Linear(1, 1)], {}, "Linear is a model, not a reward function"),
        ([print, print], {"weights": [1]}, "1 weights for 2 rewards (print, print_2)"),
        ([print], {"weights": [math.nan]}, "the weight of reward 'print' is nan"),
        ([print], {"weights": ["1"]}, "the weight of reward 'print' is '1'"),
        ([print], {"weights": [0]}, "weight 0, so nothing would be rewarded"),
        ([print, print], {"names": ["a", "a"]}, "must be 2 different names"),
        ([print], {"names": ["a", "b"]}, "must be 1 different names"),
        ([lambda completions, /: []], {}, "takes 'completions' by position"),
    ],
)
def test_what_makes_no_set_is_refused(functions: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=re.escape(message)):
        RewardSet(functions, **given)


def test_rows_that_cannot_be_graded_are_refused_beforehand() -> None:
    def mine(completions: Any, ground_truth: Any, hint: Any = None, **kwargs: Any) -> list[float]:
        raise AssertionError("not called")

    rewards = RewardSet(mine)
    rewards.check(["prompt", "ground_truth"])
    with pytest.raises(
        RewardError, match=r"takes 'ground_truth', which is no column .*; did you mean 'ground_thruth'\?"
    ):
        rewards.check(["prompt", "ground_thruth"])
    with pytest.raises(RewardError, match=r"a column 'prompts', under which"):
        rewards.check(["prompt", "ground_truth", "prompts"])
    RewardSet("boxed_answer").check(["prompt", "answer"])
    with pytest.raises(RewardError, match=r"'boxed_answer': the rows have no right answer .*\(their columns: target\)"):
        RewardSet("boxed_answer").check(["prompt", "target"])


def test_a_rewards_own_check_is_asked() -> None:
    class Judge:
        def __call__(self, **kwargs: Any) -> Any: ...

        def check(self) -> None:
            raise SamplingError("no judge is there")

    with pytest.raises(SamplingError, match="no judge is there"):
        RewardSet(Judge()).check([])


def test_ctrl_c_leaves_a_coroutine_function_cleanly(caplog: pytest.LogCaptureFixture) -> None:
    started, ended = threading.Event(), threading.Event()

    async def waits(completions: Any) -> list[float]:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return []

    rewards = RewardSet(waits)

    def press() -> None:
        started.wait(10)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        rewards.score(prompts=["p"], completions=["c"], completion_ids=[[1]], columns={})
    assert ended.wait(5)
    rewards.close()
    gc.collect()
    assert caplog.records == []  # of tasks that were pending when their loop went

"""Functions that hang, die, recurse and eat memory do not harm the program that calls them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from misbehaviour import behave, graded, loaded, pid_of, prepare, with_child

from posttrain.errors import RewardError
from posttrain.rewards.files import load_function
from posttrain.rewards.workers import Workers, reward_in_workers
from posttrain.types import Unjudged


def test_results_come_in_order_and_bad_items_are_unjudged() -> None:
    items = ["a", "sleep", "b", "exit", "c", "spin", "crash", "recurse", *"defgh"]
    with Workers(behave, processes=2, timeout_s=0.4) as workers:
        start = time.monotonic()
        results = workers.map(items)
        assert time.monotonic() - start < 8
    died, late = Unjudged("the worker died"), Unjudged("timed out after 0.4 s")
    deep = Unjudged("the worker recursed too deeply")
    assert results == ["A", late, "B", died, "C", late, died, deep, *"DEFGH"]


def test_memory_is_limited() -> None:
    with Workers(behave, processes=1, timeout_s=20, memory_mib=64) as workers:
        assert workers.map(["memory", "a"]) == [Unjudged("the worker ran out of memory (limit 64 MiB)"), "A"]


def test_an_exception_is_passed_on_with_its_traceback() -> None:
    with Workers(behave, processes=2, timeout_s=20) as workers:
        with pytest.raises(RewardError) as caught:
            workers.map(["a", "raise", "sleep"])
        text = str(caught.value)
        assert text.startswith("behave raised ValueError: nothing fits\nIt was given 'raise'\nTraceback")
        assert 'raise ValueError("nothing fits")' in text
        assert workers.map(["a"]) == ["A"]  # and the pool is of use after it


def test_what_cannot_be_sent_is_said() -> None:
    with Workers(behave, processes=1, timeout_s=20) as workers:
        with pytest.raises(RewardError, match="cannot be sent back"):
            workers.map(["odd"])
        with pytest.raises(RewardError, match=r"function .* cannot be sent there"):
            workers.map([lambda: None])


def test_seven_thousand_quick_items_take_seconds() -> None:
    with Workers(str.upper, processes=2, timeout_s=5) as workers:
        workers.map("ab")
        start = time.monotonic()
        assert workers.map(["ab"] * 7000) == ["AB"] * 7000
        assert time.monotonic() - start < 6


def test_big_items_and_results_arrive() -> None:
    with Workers(str.upper, processes=2, timeout_s=20) as workers:
        assert workers.map(["ab" * 2**20] * 3) == ["AB" * 2**20] * 3


def test_processes_are_kept_and_shared_out() -> None:
    with Workers(pid_of, processes=2, timeout_s=20) as workers:
        first, second = set(workers.map(range(200))), set(workers.map(range(200)))
    assert first | second <= first
    assert len(first) == 2


def test_what_a_worker_started_is_killed_with_it(tmp_path: Path) -> None:
    with Workers(with_child, processes=1, timeout_s=1) as workers:
        assert workers.map([str(tmp_path / "pid")]) == [Unjudged("timed out after 1 s")]
        assert gone(int((tmp_path / "pid").read_text()))


def test_closing_leaves_no_process() -> None:
    workers = Workers(pid_of, processes=2, timeout_s=20)
    pids = set(workers.map(range(50)))
    workers.close()
    assert all(gone(pid) for pid in pids)
    assert set(workers.map(range(50))).isdisjoint(pids)  # it starts again when it is needed
    workers.close()


def test_a_worker_that_dies_between_items_costs_no_item() -> None:
    with Workers(pid_of, processes=1, timeout_s=20) as workers:
        (pid,) = workers.map([0])
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        (other,) = workers.map([0])
        assert isinstance(other, int)
        assert other != pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_program(number: int, tmp_path: Path) -> None:
    """A script without a main guard, its function in the script itself, stopped while its workers spin."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, pathlib, sys
            from posttrain.rewards.workers import Workers
            PLACE = pathlib.Path(sys.argv[1])
            def spin(item):
                (PLACE / str(os.getpid())).touch()
                while True:
                    pass
            Workers(spin, processes=2, timeout_s=60).map("ab")
        """)
    )
    place = tmp_path / "pids"
    place.mkdir()
    program = subprocess.Popen([sys.executable, str(script), str(place)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(pids := [int(p.name) for p in place.iterdir()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2
    program.send_signal(number)
    _, errors = program.communicate(timeout=20)
    assert program.returncode != 0
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert all(gone(pid) for pid in pids)


def gone(pid: int) -> bool:
    """Whether the process ends within a few seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # killed; nobody has asked for its exit code yet
            return True
        time.sleep(0.05)
    return False


def test_functions_of_functions_lambdas_and_files_are_sent(tmp_path: Path) -> None:
    factor = 3

    def times(item: int) -> int:
        return factor * item

    file = tmp_path / "mine.py"
    file.write_text("OFFSET = 10\ndef shift(item):\n    return item + OFFSET\n")
    for function, expected in (
        (times, [3, 6]), (lambda item: -item, [-1, -2]), (load_function(f"{file}:shift"), [11, 12]),
    ):  # fmt: skip
        with Workers(function, processes=1, timeout_s=20) as workers:
            assert workers.map([1, 2]) == expected


def test_a_function_that_cannot_be_loaded_there_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "once.py"
    file.write_text("def f(item):\n    return item\n")
    function = load_function(f"{file}:f")
    file.write_text("raise OSError('the disk is gone')\n")
    with (
        Workers(function, processes=1, timeout_s=20) as workers,
        pytest.raises(RewardError, match=r"f could not be loaded in a worker process: OSError: the disk is gone"),
    ):
        workers.map([1])


def test_prepare_runs_before_any_item_and_torch_stays_out() -> None:
    with Workers(loaded, processes=1, timeout_s=20, prepare=prepare) as workers:
        assert workers.map(["wave"]) == [True]
    with Workers(str.upper, processes=1, timeout_s=20) as workers:
        workers.map(["a"])
    code = "import sys, posttrain.rewards.workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("broken", [{"timeout_s": 0}, {"timeout_s": 1, "processes": 0}])
def test_broken_arguments(broken: dict[str, Any]) -> None:
    with pytest.raises(RewardError, match="must be above 0"):
        Workers(pid_of, **broken)


def test_a_reward_of_a_function_of_one_completion() -> None:
    reward = reward_in_workers(graded, name="contains", timeout_s=0.5, processes=1)
    assert reward.__name__ == "contains"
    completions = [[{"role": "assistant", "content": text}] for text in ("it is 7", "sleep", "it is 8", "x")]
    values = reward(completions=completions, ground_truth=["7", "7", "7", ""], prompts=["?"] * 4)
    assert values == [1.0, Unjudged("timed out after 0.5 s"), 0.0, None]
    with pytest.raises(RewardError, match="no right answer to compare with"):
        reward(completions=completions, target=["7"] * 4)
    reward.close()
    lengths = reward_in_workers(len, timeout_s=20, processes=1)
    assert lengths(completions=["ab", "c"]) == [2, 1]
    lengths.close()

"""A pool of processes that can be killed, for functions that may hang, die or take all memory. It is no sandbox."""

from __future__ import annotations

import inspect
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self

from posttrain.errors import RewardError
from posttrain.rewards.columns import answer_column, completion_text
from posttrain.rewards.files import LOADED
from posttrain.rewards.worker_process import receive, send
from posttrain.rewards.worker_start import Forker, Worker

if TYPE_CHECKING:  # worker processes import this module, and start in a moment without torch
    from posttrain.types import Unjudged

_now = time.monotonic


class Workers:
    """`function` in processes of its own: `map(items)` gives a result or an Unjudged for each item, in order.

    A process that takes longer than `timeout_s` over an item, dies, recurses without end, or takes `memory_mib` more
    memory than it started with is replaced and its item is Unjudged; the other items go on. Items and results are what
    pickle can carry. A function of a module is sent by name, one of a notebook, a script or another function by value.

    Processes start with the first `map`. They end with `close()`, with the `with` block, when an exception (Ctrl-C too)
    leaves `map`, when this object is no longer used, and with the program, however that ends.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        timeout_s: float,
        processes: int | None = None,
        memory_mib: int | None = None,
        unpack: bool = False,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """`unpack` passes an item's elements as arguments. `prepare` is called once, before any item's time begins, so
        that its imports are there in every process. `processes` is the number of cores unless given.
        """
        self.processes = _cores() if processes is None else processes
        for name, value in (("timeout_s", timeout_s), ("processes", self.processes), ("memory_mib", memory_mib)):
            if value is not None and not value > 0:
                raise RewardError(f"{name}={value!r} must be above 0")
        self.function, self.timeout_s, self.memory_mib = function, timeout_s, memory_mib
        self._unpack, self._prepare = unpack, prepare
        self._lock = threading.Lock()
        self._forker: Forker | None = None
        self._idle: list[Worker] = []

    def map(self, items: Iterable[Any]) -> list[Any | Unjudged]:
        """The function's result for each item, in order. Raises RewardError with the traceback where it raised."""
        with self._lock:
            waiting = deque(enumerate(items))
            if not waiting:
                return []
            if self._forker is not None and not self._forker.alive():
                self._shut()
            if self._forker is None:
                self._forker = Forker(self._order(), self.name)
            try:
                return self._map(self._forker, waiting)
            except (OSError, EOFError) as error:
                self._shut()
                raise RewardError(
                    f"the process that starts workers for {self.name} was killed; run it again"
                ) from error
            except BaseException:
                self._shut()
                raise

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__name__", None) or type(self.function).__name__)

    def close(self) -> None:
        """Ends the processes. A later `map` starts new ones."""
        with self._lock:
            self._shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _map(self, forker: Forker, waiting: deque[tuple[int, Any]]) -> list[Any]:
        results: list[Any] = [None] * len(waiting)
        busy: list[Worker] = []
        while waiting or busy:
            while waiting and len(busy) < self.processes:
                worker, fresh = (self._idle.pop(), False) if self._idle else (forker.fork(), True)
                if self._give(worker, *waiting[0]):
                    busy.append(worker)
                    waiting.popleft()
                    continue
                forker.end(worker)
                if fresh:  # otherwise it had died since its last item, and this one goes to the next
                    results[waiting.popleft()[0]] = _unjudged("the worker died")
            if not busy:
                continue
            answered = wait([worker.connection for worker in busy], max(min(w.deadline for w in busy) - _now(), 0.0))
            for worker in list(busy):
                if worker.connection in answered:
                    result, well = self._take(worker)
                elif _now() >= worker.deadline:
                    result, well = _unjudged(f"timed out after {self.timeout_s:g} s"), False
                else:
                    continue
                results[worker.index] = result
                busy.remove(worker)
                if well:
                    self._idle.append(worker)
                else:
                    forker.end(worker)
        return results

    def _give(self, worker: Worker, index: int, item: Any) -> bool:
        """Whether the worker could be given the item."""
        worker.index, worker.item, worker.deadline = index, item, _now() + self.timeout_s
        worker.connection.settimeout(self.timeout_s)
        try:
            send(worker.connection, item)
        except OSError:
            return False
        except Exception as error:  # pickle has another exception for every kind of object
            raise RewardError(
                f"{self.name} works in processes of its own, and {type(item).__name__} {item!r:.80} cannot be sent "
                f"there: {error}"
            ) from error
        return True

    def _take(self, worker: Worker) -> tuple[Any, bool]:
        """The result, and whether the worker is well enough for another item."""
        worker.connection.settimeout(max(worker.deadline - _now(), 0.1))
        try:
            kind, *rest = receive(worker.connection)
        except TimeoutError:
            return _unjudged(f"timed out after {self.timeout_s:g} s"), False
        except (EOFError, OSError):
            return _unjudged("the worker died"), False
        if kind == "memory":
            limit = "" if self.memory_mib is None else f" (limit {self.memory_mib} MiB)"
            return _unjudged(f"the worker ran out of memory{limit}"), False
        if kind == "recursion":
            return _unjudged("the worker recursed too deeply"), False
        if kind == "raised":
            problem, trace = rest
            raise RewardError(f"{self.name} {problem}\nIt was given {worker.item!r:.200}\n{trace}".rstrip())
        return rest[0], True

    def _order(self) -> dict[str, Any]:
        """What the processes have to know."""
        pair = (self.function, self._prepare)
        try:
            functions: bytes | None = pickle.dumps(pair)
        except Exception:  # a lambda, or a function in a function; pickle has several exceptions for them
            functions = None
        by_value = functions is None or b"__main__" in functions  # which a worker process does not have
        if by_value:
            try:
                import dill

                functions = dill.dumps(pair, recurse=True)
            except Exception as error:
                raise RewardError(
                    f"{self.name} cannot be sent to worker processes: {type(error).__name__}: {error}. "
                    "Define it at the top of a file of its own and import it from there."
                ) from error
        assert functions is not None
        return {
            "functions": functions,
            "by_value": by_value,
            "files": {name: path for name, path in LOADED.items() if name.encode() in functions},
            "unpack": self._unpack,
            "memory_mib": self.memory_mib,
        }

    def _shut(self) -> None:
        if self._forker is not None:
            self._forker.close()
        self._forker, self._idle = None, []


def _unjudged(reason: str) -> Unjudged:
    from posttrain.types import Unjudged

    return Unjudged(reason)


def _cores() -> int:
    """The cores this process may use, shared with the other processes of a distributed run on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class WorkerReward:
    """A reward made of a function of one completion; see `reward_in_workers`."""

    def __init__(self, workers: Workers, *, name: str, column: str | None, answered: bool) -> None:
        self.__name__ = name
        self.workers = workers
        self._column, self._answered = column, answered

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[Any]:
        texts = [completion_text(completion) for completion in completions]
        if not self._answered:
            return self.workers.map([(text,) for text in texts])
        return self.workers.map(list(zip(texts, answer_column(columns, self._column))))

    def close(self) -> None:
        """Ends the processes."""
        self.workers.close()


def reward_in_workers(
    per_item: Callable[..., Any],
    *,
    name: str | None = None,
    timeout_s: float = 10.0,
    processes: int | None = None,
    memory_mib: int | None = None,
    column: str | None = None,
    prepare: Callable[[], object] | None = None,
) -> WorkerReward:
    """A reward that calls `per_item(text, answer) -> float | None` in processes that can be killed.

    The answer is the row's `column`, or else its `ground_truth`, `answer` or `solution`; a function of one argument
    gets the text alone. What timed out or died is Unjudged. The other arguments are those of `Workers`.
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(per_item).parameters.values()
    takes = sum(p.kind in positional for p in parameters)
    answered = takes >= 2 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    workers = Workers(
        per_item, timeout_s=timeout_s, processes=processes, memory_mib=memory_mib, unpack=True, prepare=prepare
    )
    return WorkerReward(workers, name=name or workers.name, column=column, answered=answered)

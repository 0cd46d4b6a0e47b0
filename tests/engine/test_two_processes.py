"""What the fields of several processes do, in two processes over gloo."""

from __future__ import annotations

import datetime
import logging
import multiprocessing
import os
import socket

import pytest
import torch
from tiny import build_model
from torch import nn

from posttrain.algorithms.sft import sft_batch, sft_loss
from posttrain.config import SFTConfig
from posttrain.config.machine import MachineConfig
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.models.learner import Learner
from posttrain.trainers.checks import rows_per_step
from posttrain.types import Segment

# shares of very different sizes, so that a mean of means is not the mean
SHARES = [
    [Segment(tokens=list(range(5, 9)), trained=[(2, 4)])],
    [Segment(tokens=list(range(9, 25)), trained=[(2, 16)])],
]


class Idle(nn.Module):
    """Uses its second layer now and then, and has a buffer of its own in each process."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)
        self.register_buffer("mine", torch.tensor(float(rank)))

    def forward(self, x):
        return self.used(x).sum()


def taken(runtime, trees):
    """The loss of a step of these trees, and the weights after it."""
    learner = Learner(build_model("llama"))
    wrapped = runtime.prepare(learner)
    result = step(
        wrapped, sft_batch(trees), sft_loss, optimizer=torch.optim.SGD(learner.parameters(), lr=0.1), runtime=runtime,
        budget=Budget(max_tokens=100), max_grad_norm=0.0,
    )  # fmt: skip
    return result.loss, torch.cat([p.detach().flatten() for p in learner.parameters()]).tolist()


def survives(runtime, rank):
    """Whether two passes go through that leave a layer unused, and what the buffer is then."""
    module = Idle(rank)
    wrapped = runtime.prepare(module)
    try:
        for _ in range(2):
            wrapped(torch.ones(1, 2)).backward()
    except RuntimeError as error:
        return str(error), None
    return "", float(module.mine)


def one_of_two(rank, port, answers):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    first = Runtime(config=MachineConfig(use_cpu=True, ddp_backend="gloo", ddp_timeout=77))
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    seen = {
        "backend": torch.distributed.get_backend(),
        "timeout": group.options._timeout,
        "average": taken(first, SHARES[rank]),
        "unused": survives(first, rank),
        "speaks": (first.speaks(), first.speaks(logging.WARNING)),
    }
    own = Runtime(config=MachineConfig(use_cpu=True, average_tokens_across_devices=False))
    seen["own"] = taken(own, SHARES[rank])
    tuned = Runtime(
        config=MachineConfig(
            use_cpu=True, ddp_find_unused_parameters=True, ddp_broadcast_buffers=False, ddp_bucket_cap_mb=3,
            log_level="error", log_level_replica="info",
        )
    )  # fmt: skip
    seen["found"] = survives(tuned, rank)
    seen["bucket"] = tuned.prepare(Idle(rank)).bucket_bytes_cap
    seen["spoken"] = (tuned.speaks(), tuned.speaks(logging.WARNING))
    fixed = Runtime(config=MachineConfig(use_cpu=True, ddp_static_graph=True))
    seen["static"] = (fixed.prepare(Idle(rank)).static_graph, survives(fixed, rank)[0])
    answers.put((rank, seen))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two():
    """What each of the two processes saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")  # everything is imported already
    answers = context.Queue()
    processes = [context.Process(target=one_of_two, args=(rank, port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    seen = dict(answers.get(timeout=100) for _ in processes)
    for process in processes:
        process.join()
    return [seen[0], seen[1]]


def alone(trees):
    return taken(Runtime(use_cpu=True), trees)


def test_a_step_is_divided_by_the_tokens_of_all_processes_or_each_by_its_own(two):
    together, weights = alone([*SHARES[0], *SHARES[1]])
    (short, after_short), (long, after_long) = (alone(share) for share in SHARES)
    for seen in two:
        assert seen["average"][0] == pytest.approx(together, rel=1e-6)
        assert seen["average"][1] == pytest.approx(weights, abs=1e-5)
        assert seen["own"][0] == pytest.approx((short + long) / 2, rel=1e-6)
        assert seen["own"][1] == pytest.approx([(a + b) / 2 for a, b in zip(after_short, after_long)], abs=1e-5)
    assert abs(together - (short + long) / 2) > 0.01


def test_backend_and_patience_are_those_named(two):
    assert {seen["backend"] for seen in two} == {"gloo"}
    assert {seen["timeout"] for seen in two} == {datetime.timedelta(seconds=77)}


def test_parameters_that_a_pass_leaves_unused_are_looked_for_where_that_is_asked(two):
    for seen in two:
        assert "find_unused_parameters" in seen["unused"][0]
        assert seen["found"][0] == ""


def test_buffers_are_each_process_s_own_where_they_are_not_broadcast(two):
    assert [seen["found"][1] for seen in two] == [0.0, 1.0]


def test_gradients_are_exchanged_in_buckets_of_the_size_named(two):
    assert {seen["bucket"] for seen in two} == {3 * 1024 * 1024}


def test_a_graph_that_is_promised_to_stay_may_leave_parameters_unused(two):
    assert {seen["static"] for seen in two} == {(True, "")}


def test_the_first_process_speaks_and_the_others_only_where_their_level_says_so(two):
    assert [seen["speaks"] for seen in two] == [(True, True), (False, True)]
    assert [seen["spoken"] for seen in two] == [(False, False), (True, True)]


def test_the_batch_size_counts_rows_of_each_process_or_of_all():
    plain = SFTConfig(per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert rows_per_step(plain, 2) == 32
    assert rows_per_step(plain.replace(accelerator_config={"split_batches": True}), 2) == 16

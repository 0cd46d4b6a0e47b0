"""How many completions a rollout holds, and whether they are whole micro-steps, optimiser steps and groups."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RolloutSize:
    """What is said about the size of a rollout, for a number of processes."""

    per_device: int  # per_device_train_batch_size: completions of a micro-step on each process
    accumulation: int  # gradient_accumulation_steps: micro-steps of an optimiser step
    group: int  # num_generations
    steps_per_generation: int | None  # micro-steps of a rollout
    generation_batch_size: int | None  # the same in completions over all processes
    processes: int

    @property
    def micro_steps(self) -> int:
        """Micro-steps of one pass over the rollout."""
        if self.generation_batch_size is not None:
            return self.generation_batch_size // (self.per_device * self.processes)
        return self.steps_per_generation or self.accumulation

    def problem(self) -> tuple[str, str] | None:
        """(field, what is wrong and what would fit), or None.

        A rollout that is whole in any number of processes is so in one.
        """
        return self._said_twice() or self._micro_step_cut() or self._optimiser_step_cut() or self._group_cut()

    def _said_twice(self) -> tuple[str, str] | None:
        if self.generation_batch_size is None or self.steps_per_generation is None:
            return None
        return (
            "generation_batch_size",
            f"generation_batch_size={self.generation_batch_size} and steps_per_generation={self.steps_per_generation} "
            "both say how large a rollout is; keep one",
        )

    def _micro_step_cut(self) -> tuple[str, str] | None:
        total, together = self.generation_batch_size, self.per_device * self.processes
        if total is None or total % together == 0:
            return None
        on = "" if self.processes == 1 else f" on each of {self.processes} processes"
        return (
            "generation_batch_size",
            f"generation_batch_size={total} is no whole number of micro-steps of per_device_train_batch_size="
            f"{self.per_device} completions{on}; write {self._fitting_total()}",
        )

    def _optimiser_step_cut(self) -> tuple[str, str] | None:
        steps, accumulation = self.micro_steps, self.accumulation
        if steps % accumulation == 0:
            return None
        if self.generation_batch_size is None:
            name, said, fitting = "steps_per_generation", f"steps_per_generation={steps}", self._fitting_steps()
        else:
            name, fitting = "generation_batch_size", self._fitting_total()
            said = f"generation_batch_size={self.generation_batch_size}, which is {_counted(steps, 'micro-step')},"
        if steps < accumulation:
            why = "would need several rollouts from the same weights, which is one larger rollout"
        else:
            why = "would mix two rollouts, one of them from older weights"
        return (
            name,
            f"{said} does not go with gradient_accumulation_steps={accumulation}: an optimiser step {why}; "
            f"write {name}={fitting}, or leave it out for one rollout a step",
        )

    def _group_cut(self) -> tuple[str, str] | None:
        size = self.per_device * self.micro_steps
        if size % self.group == 0:
            return None
        if self.generation_batch_size is not None:
            counted = f"generation_batch_size={self.generation_batch_size}"
            counted += f" is {size} on each of {self.processes} processes" if self.processes > 1 else ""
            larger = f"generation_batch_size={self._fitting_total()}"
        else:
            name = "gradient_accumulation_steps" if self.steps_per_generation is None else "steps_per_generation"
            counted = f"per_device_train_batch_size x {name} = {self.per_device} x {self.micro_steps} = {size}"
            larger = f"{name}={self._fitting_steps() if self.steps_per_generation else self._fitting_accumulation()}"
        per_device = _nearest(self.per_device, self.group // math.gcd(self.group, self.micro_steps))
        remedies = [f"per_device_train_batch_size={per_device}", larger]
        if smaller := _divisors_near(self.group, size):
            remedies.insert(0, f"num_generations={smaller}")
        return (
            "num_generations",
            f"a rollout holds whole groups of num_generations={self.group} completions, and {counted} is not a "
            f"multiple of {self.group}; write {', or '.join(remedies)}",
        )

    def _fitting_steps(self) -> str:
        return _nearest(self.micro_steps, math.lcm(self.accumulation, self._micro_steps_of_groups()))

    def _fitting_accumulation(self) -> str:
        return _nearest(self.accumulation, self._micro_steps_of_groups())

    def _fitting_total(self) -> str:
        step = self.processes * math.lcm(self.per_device * self.accumulation, self.group)
        return _nearest(self.generation_batch_size or step, step)

    def _micro_steps_of_groups(self) -> int:
        """The fewest micro-steps that hold whole groups."""
        return self.group // math.gcd(self.group, self.per_device)


def _nearest(value: int, step: int) -> str:
    """The multiples of `step` around the value: "8", or "8 or 16"."""
    below = value // step * step
    return " or ".join(str(multiple) for multiple in (below, below + step) if multiple)


def _divisors_near(value: int, of: int) -> str:
    """The divisors of `of`, at least 2, around the value; "" where there is none."""
    divisors = [number for number in range(2, of + 1) if of % number == 0]
    below = [number for number in divisors if number < value][-1:]
    above = [number for number in divisors if number > value][:1]
    return " or ".join(map(str, below + above))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"

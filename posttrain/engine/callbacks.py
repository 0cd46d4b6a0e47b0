"""A run's callbacks, which are transformers' own: told each event, asked what to do next, kept across a resumption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from posttrain.config.training import TrainingConfig
from posttrain.errors import ConfigError, PosttrainError, TrainingError

NO_LOADERS = {"train_dataloader": None, "eval_dataloader": None}  # batches come from a source


class Callbacks:
    """The callbacks in the order they are told, and `control`, in which they say what they want."""

    def __init__(self, given: Iterable[TrainerCallback | type[TrainerCallback]] = ()) -> None:
        self.control = TrainerControl()
        self._all: list[TrainerCallback] = []
        for callback in given:
            self.add(callback)

    def __iter__(self) -> Any:
        return iter(self._all)

    def has(self, kind: type[TrainerCallback]) -> bool:
        """Whether there is a callback of the class."""
        return any(isinstance(callback, kind) for callback in self._all)

    def add(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Adds a callback, or one made of a class without arguments, behind the others."""
        self._all.append(as_callback(callback))

    def pop(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Takes out the callback, or the first of the class, and returns it; None where there is none."""
        for held in self._all:
            if held is callback or (isinstance(callback, type) and isinstance(held, callback)):
                self._all.remove(held)
                return held
        return None

    def tell(self, event: str, config: Any, state: TrainerState, **context: Any) -> None:
        """Calls the event of every callback. An exception in one ends the run and is named after it."""
        for callback in self._all:
            try:
                answer = getattr(callback, event)(config, state, self.control, **NO_LOADERS, **context)
            except PosttrainError:
                raise
            except Exception as error:
                said = f": {error}" if str(error) else ""
                raise TrainingError(
                    f"the callback {type(callback).__name__} raised {type(error).__name__} in {event} at step "
                    f"{state.global_step}{said}"
                ) from error
            self.control = answer or self.control

    def states(self) -> dict[str, Any]:
        """The state of each callback that has one, by its class; a list where a class is there more than once."""
        found: dict[str, Any] = {}
        for callback in [*self._all, self.control]:
            if isinstance(callback, ExportableState):
                name = type(callback).__name__
                if name not in found:
                    found[name] = callback.state()
                elif isinstance(found[name], list):
                    found[name].append(callback.state())
                else:
                    found[name] = [found[name], callback.state()]
        return found

    def restore(self, states: Mapping[str, Any]) -> None:
        """Gives each callback the state that one of its class had; those without one stay as they are."""
        left = {name: list(state) if isinstance(state, list) else [state] for name, state in states.items()}
        for callback in self._all:
            waiting = left.get(type(callback).__name__)
            if isinstance(callback, ExportableState) and waiting:
                vars(callback).update(vars(type(callback).from_state(waiting.pop(0))))

    def check_states(self) -> None:
        """Raises ConfigError for a callback whose state could not be written into a checkpoint."""
        for callback in self._all:
            if not isinstance(callback, ExportableState):
                continue
            try:
                state = callback.state()
                json.dumps(state)
                missing = {"args", "attributes"} - set(state)
            except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
                raise ConfigError(
                    f"the callback {type(callback).__name__} is an ExportableState, and its state cannot be written as "
                    f"JSON: {error}. Let state() return plain values under args and attributes."
                ) from error
            if missing:
                raise ConfigError(
                    f"the callback {type(callback).__name__} is an ExportableState, and its state() lacks "
                    f"{' and '.join(sorted(missing))}"
                )


def check_callbacks(given: Iterable[Any], config: TrainingConfig) -> None:
    """Raises ConfigError for what is no callback, and for early stopping that nothing could bring about."""
    for callback in given:
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, TrainerCallback):
            as_callback(callback)
        if not issubclass(kind, EarlyStoppingCallback):
            continue
        if config.eval_strategy == "no":
            raise ConfigError("EarlyStoppingCallback reads evaluations: write eval_strategy=steps or epoch")
        if config.metric_for_best_model is None:
            raise ConfigError(
                "EarlyStoppingCallback compares evaluations by metric_for_best_model, which is not set: write loss, or "
                "load_best_model_at_end=True, which takes loss"
            )


def as_callback(given: Any) -> TrainerCallback:
    """The callback, made where a class is given. Raises ConfigError for what is none."""
    made = given
    if isinstance(given, type) and issubclass(given, TrainerCallback):
        try:
            made = given()
        except TypeError as error:
            raise ConfigError(f"callbacks: {given.__name__} cannot be made without arguments ({error})") from error
    if not isinstance(made, TrainerCallback):
        what = given.__name__ if isinstance(given, type) else type(given).__name__
        raise ConfigError(
            f"callbacks: {what} is no callback; give objects or classes derived from transformers.TrainerCallback"
        )
    return made

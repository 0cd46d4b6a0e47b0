"""`CheckpointsConfig`: when a run evaluates and saves, and which checkpoint is the best."""

from collections.abc import Iterator
from typing import Literal

from posttrain.config.base import Config, option

_WHEN = "Logging, evaluation, checkpoints"


class CheckpointsConfig(Config):
    """Evaluations, checkpoints and the best of them, named as in transformers."""

    eval_strategy: Literal["no", "steps", "epoch"] = option("no", "When the evaluation dataset is run.", group=_WHEN)
    eval_steps: float | None = option(None, "Steps between evaluations; none = logging_steps.", group=_WHEN, gt=0)
    eval_delay: float = option(
        0, "Steps before the first evaluation; epochs where eval_strategy=epoch.", group=_WHEN, ge=0
    )
    eval_on_start: bool = option(False, "Evaluate before the first step.", group=_WHEN)
    save_strategy: Literal["no", "steps", "epoch", "best"] = option(
        "steps", "When checkpoints are written; best = when an evaluation is the best so far.", group=_WHEN
    )
    save_steps: float = option(500, "Steps between checkpoints; below 1 a share of all steps.", group=_WHEN, gt=0)
    save_total_limit: int | None = option(
        None, "Checkpoints kept, the best always among them; none = all.", group=_WHEN, ge=1
    )
    save_only_model: bool = option(False, "Checkpoints without optimiser state: they cannot be resumed.", group=_WHEN)
    load_best_model_at_end: bool = option(
        False, "End with the weights of the best checkpoint instead of the last.", group=_WHEN
    )
    metric_for_best_model: str | None = option(
        None, "Metric of the evaluation that says which checkpoint is the best; none = loss.", group=_WHEN
    )
    greater_is_better: bool | None = option(
        None, "Whether more of that metric is better; none = yes, unless its name ends in loss.", group=_WHEN
    )
    resume_from_checkpoint: bool | str | None = option(
        None, "Go on from the last checkpoint (true) or from this one.", group=_WHEN
    )
    restore_callback_states_from_checkpoint: bool = option(
        True, "Give callbacks the state that they had when a run is resumed.", group=_WHEN
    )

    @property
    def follows_evaluation(self) -> bool:
        """Whether the learning rate depends on a metric of the evaluation."""
        return False

    def _settle(self) -> None:
        super()._settle()
        asked = self.load_best_model_at_end or self.save_strategy == "best" or self.follows_evaluation
        if asked and self.metric_for_best_model is None:
            self.__dict__["metric_for_best_model"] = "loss"
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.__dict__["greater_is_better"] = not self.metric_for_best_model.endswith("loss")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        evaluates = self.eval_strategy != "no"
        for name, asked, words in (
            ("load_best_model_at_end", self.load_best_model_at_end, "load_best_model_at_end=True"),
            ("save_strategy", self.save_strategy == "best", "save_strategy='best'"),
            ("eval_delay", bool(self.eval_delay), f"eval_delay={self.eval_delay:g}"),
        ):
            if asked and not evaluates:
                yield (
                    name,
                    f"{words} is about evaluations, and eval_strategy='no' makes none; write eval_strategy=steps",
                )
        if self.load_best_model_at_end and evaluates and self.save_strategy != "best":
            yield from self._unevaluated_checkpoints()
        if self.greater_is_better is not None and self.metric_for_best_model is None:
            yield "greater_is_better", "greater_is_better has an effect only together with metric_for_best_model"
        if self.save_only_model and self.resume_from_checkpoint is True:
            yield (
                "resume_from_checkpoint",
                "resume_from_checkpoint=True needs the optimiser's state; set save_only_model=False",
            )

    def _unevaluated_checkpoints(self) -> Iterator[tuple[str, str]]:
        """What keeps checkpoints from being evaluated at the step they hold."""
        name = "load_best_model_at_end"
        if self.save_strategy != self.eval_strategy:
            yield (
                name,
                f"load_best_model_at_end needs evaluated checkpoints, but save_strategy={self.save_strategy!r} "
                f"and eval_strategy={self.eval_strategy!r}; make them equal, or write save_strategy=best",
            )
        elif self.save_strategy == "steps" and self.eval_steps is not None:
            every, each = self.save_steps, self.eval_steps
            # shares of a run are compared as whole millionths, which binary fractions are not
            if (every < 1) != (each < 1) or round(every * 1e6) % round(each * 1e6):
                yield (
                    name,
                    f"load_best_model_at_end needs evaluated checkpoints, but save_steps={every:g} is no "
                    f"multiple of eval_steps={each:g}; make it one, or write save_strategy=best",
                )

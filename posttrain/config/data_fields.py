"""`DataFields`: which model a training command trains, and on which rows."""

from collections.abc import Iterator
from typing import Any

from posttrain.config.base import Config, option
from posttrain.config.names import now, synonym
from posttrain.config.sources import Mixture, SourceFields, Stop, as_mixture, mixture
from posttrain.errors import ConfigError

_DATA = "Model and data"
DATA_RENAMED = {  # what other tools call them
    "dataset_name": now("train_dataset"),
    "dataset": now("train_dataset"),
    "dataset_split": synonym("dataset_train_split"),
    "max_samples": synonym("train_rows"),
    "max_train_samples": synonym("train_rows"),
    "max_eval_samples": synonym("eval_rows"),
}


class DataFields(Config):
    """The model and the datasets of a training command, or of a stage of a recipe."""

    model: str = option(..., "Directory or name of the model to train.", group=_DATA)
    train_dataset: str | list[str | dict[str, Any]] | dict[str, Any] = option(
        ...,
        "What to train on: a file, a pattern, a directory, or a dataset on the Hugging Face Hub (NAME or NAME:CONFIG). "
        "Several are mixed: 0.7:a.jsonl 0.3:b.jsonl, or in YAML a list of {path, weight, columns, rows, split}.",
        group=_DATA,
    )
    eval_dataset: str | list[str | dict[str, Any]] | dict[str, Any] | None = option(
        None, "The same to evaluate on.", group=_DATA
    )
    columns: dict[str, str] | None = option(
        None, "Columns by the names that are read, such as {completion: canonical_solution}.", group=_DATA
    )
    train_rows: int | None = option(None, "Rows taken of each source, from its start; none = all.", group=_DATA, ge=1)
    eval_rows: int | None = option(None, "The same of the evaluation data.", group=_DATA, ge=1)
    dataset_config: str | None = option(None, "Configuration of a dataset on the Hub.", group=_DATA)
    dataset_train_split: str | None = option(
        None, "Split to train on; none = train, where there are splits.", group=_DATA
    )
    dataset_test_split: str | None = option(
        None, "Split to evaluate on: of eval_dataset, or without one of the training data.", group=_DATA
    )
    stopping_strategy: Stop = option(
        "first_exhausted", "When an epoch of a mixture ends: with its first source, or with all of them.", group=_DATA
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.model.strip():
            yield "model", f"model is empty; {type(self).model_fields['model'].description}"
        for name in ("train_dataset", "eval_dataset"):
            try:
                self.data(name)
            except ConfigError as error:
                yield name, str(error)
        if self.eval_rows is not None and self.data("eval_dataset") is None:
            yield "eval_rows", "eval_rows has an effect only together with an eval_dataset"
        trained = self.data("train_dataset")
        weighed = isinstance(trained, Mixture) and trained.weights is not None
        if "stopping_strategy" in self.model_fields_set and not weighed:
            yield (
                "stopping_strategy",
                "stopping_strategy has an effect only on a train_dataset of several sources with weights",
            )

    def data(self, name: str) -> Any:
        """What a trainer is given as `train_dataset` or `eval_dataset`. Raises ConfigError for what is no source."""
        value, training = getattr(self, name), name == "train_dataset"
        split = self.dataset_train_split if training else self.dataset_test_split
        if value is None and not training and split is not None:
            value = self.train_dataset
        if value is None:
            return None
        sources = [SourceFields.parse(item) for item in (value if isinstance(value, list) else [value])]
        if not sources:
            raise ConfigError(f"{name} is an empty list; name at least one source")
        defaults = {
            "columns": self.columns,
            "rows": self.train_rows if training else self.eval_rows,
            "config": self.dataset_config,
            "split": split,
        }
        sources = [
            source.replace(
                **{key: default for key, default in defaults.items() if default and not getattr(source, key)}
            )
            for source in sources
        ]
        if len(sources) == 1:
            plain = sources[0].model_fields_set <= {"path", "weight"}
            return sources[0].path if plain else sources[0]
        return as_mixture(sources, stop=self.stopping_strategy) or mixture(sources)

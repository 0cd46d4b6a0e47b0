"""What every command that reads rows and writes rows is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import field_validator

from posttrain.config.base import Config, option

DATA = "Data"
OUTPUTS = (".jsonl", ".json", ".csv", ".parquet")


class InputFields(Config):
    """The inputs of a command of `posttrain data`, and of the recipe's method that is the same."""

    inputs: list[str] = option(..., "Files, saved datasets, or - for standard input.", group=DATA)
    strict: bool = option(False, "Stop at the first row that cannot be read.", group=DATA)

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_input(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @classmethod
    def parse_field(cls, name: str, text: str) -> Any:
        """As for every field, but an input is a name: `-` and `[a].jsonl` mean something else in YAML."""
        return [text] if name == "inputs" else super().parse_field(name, text)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.inputs or not all(name.strip() for name in self.inputs):
            yield "inputs", "no input is named; give one or more files, or - for standard input"


class DataFields(InputFields):
    """The inputs and the output of a command of `posttrain data`."""

    output: str = option(..., "File that the rows are written to.", group=DATA)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.output.endswith(self.outputs()):
            yield "output", f"output={self.output!r} must end in {' or '.join(self.outputs())}"

    def outputs(self) -> tuple[str, ...]:
        """The endings that the output may have."""
        return OUTPUTS

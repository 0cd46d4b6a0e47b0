"""`ReportingConfig`: where a run reports beside its own files, and what is uploaded."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import field_validator

from posttrain.config.base import Config, option

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]

OTHER_TRACKERS = dict.fromkeys(
    ("comet_ml", "swanlab", "clearml", "neptune", "dvclive", "azure_ml", "dagshub", "codecarbon", "flyte"),
    "of the trackers there are tensorboard, wandb, trackio and mlflow; use one of them, or none",
)
_TO, _HUB = "Trackers", "Uploading"
_ONLY_WITH_PUSH = ("hub_strategy", "hub_private_repo", "hub_revision", "hub_always_push")
_TOKENS = ("hub_token", "push_to_hub_token")


def without_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without those that hold a token of the hub, and what loads a model without its `token`."""
    return {
        name: {key: item for key, item in value.items() if key != "token"}
        if name == "model_init_kwargs" and isinstance(value, Mapping)
        else value
        for name, value in values.items()
        if name not in _TOKENS
    }


class ReportingConfig(Config):
    """The part of a training's configuration that no computed number depends on, named as in transformers."""

    report_to: Literal["none", "all"] | Tracker | list[Tracker] = option(
        "none", "Trackers beside metrics.jsonl; all = every one that is installed.", group=_TO
    )
    run_name: str | None = option(None, "Name of the run in trackers; none = the name of output_dir.", group=_TO)
    project: str = option("huggingface", "Project, or experiment, that trackers file the run under.", group=_TO)
    logging_dir: str | None = option(None, "Directory of tensorboard; none = runs in output_dir.", group=_TO)
    trackio_space_id: str | None = option(None, "Space of the hub that trackio shows the run in.", group=_TO)
    trackio_bucket_id: str | None = option(None, "Bucket of the hub that trackio keeps the run in.", group=_TO)

    push_to_hub: bool = option(False, "Upload the model to the hub.", group=_HUB)
    hub_model_id: str | None = option(None, "Repository to upload to; none = the name of output_dir.", group=_HUB)
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = option(
        "every_save", "When to upload: saved models only, or checkpoints too, and how much of them.", group=_HUB
    )
    hub_token: str | None = option(None, "Token for uploading, never written to a file; none = HF_TOKEN.", group=_HUB)
    hub_private_repo: bool | None = option(None, "Make a new repository private; none = its owner's way.", group=_HUB)
    hub_revision: str | None = option(None, "Branch to upload to; none = main.", group=_HUB)
    hub_always_push: bool = option(False, "Upload a checkpoint even while the one before is on its way.", group=_HUB)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values. Tokens are left out: what is written here ends up in files."""
        return {"hub_token": None} | without_tokens(super().to_dict())

    @field_validator("report_to", mode="before")
    @classmethod
    def _plain_choice(cls, value: Any) -> Any:
        if value in (None, "", [], (), ["none"]):
            return "none"
        return "all" if value == ["all"] else list(value) if isinstance(value, tuple | set) else value

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if isinstance(self.report_to, list) and len(set(self.report_to)) < len(self.report_to):
            yield "report_to", f"report_to names a tracker twice: {', '.join(self.report_to)}"
        for name in sorted(self.model_fields_set.intersection(_ONLY_WITH_PUSH)):
            field = type(self).model_fields[name]
            if not self.push_to_hub and getattr(self, name) != field.default:
                yield name, f"{name} has an effect only together with push_to_hub=true"

"""What is uploaded of a run, and when; an upload that fails is said and counted, and costs the run nothing."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from posttrain.config.training import TrainingConfig
from posttrain.engine.checkpoint import LOG_FILE, STATE_FILE
from posttrain.engine.hub import Hub, reason
from posttrain.errors import HubError
from posttrain.models.merging import ADAPTER_FOLDER

STAGED = ".uploading"  # what is on its way, since a limit may remove a checkpoint meanwhile
_STATE = (STATE_FILE, LOG_FILE)  # what only a resumption reads

_RUN = ("*.jsonl", "*.yaml", "*.html", "data.json", "origin.json", "environment.json", "trackers.json", "gate.json",
        "calibration.json", "stage.json")  # fmt: skip


class Uploads(TrainerCallback):
    """Uploads checkpoints as `hub_strategy` says. Only the first process has one.

    end: what save_model() writes. every_save: the model of each checkpoint too, unless one is on its way.
    checkpoint: the whole last checkpoint as well, in last-checkpoint. all_checkpoints: each in its own directory.
    """

    def __init__(self, config: TrainingConfig, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self._hub: Hub | None = None
        self._pending: list[tuple[str, Future[Any]]] = []
        self.failed = 0

    def hub(self) -> Hub:
        """The repository. Raises HubError where it cannot be opened."""
        config = self._config
        if self._hub is None:
            self._hub = Hub.open(
                config.hub_model_id or Path(config.output_dir).resolve().name,
                token=config.hub_token,
                private=config.hub_private_repo,
                revision=config.hub_revision,
            )
        return self._hub

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.hub()  # what cannot be uploaded to is known before hours have gone into the run

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        config, strategy = self._config, self._config.hub_strategy
        self._pending = [(what, upload) for what, upload in self._pending if not self._collect(what, upload)]
        if strategy == "end" or (self._pending and not config.hub_always_push):
            return
        checkpoint = Path(config.output_dir) / f"checkpoint-{state.global_step}"
        message = f"Step {state.global_step}"
        self._send(checkpoint, message=message, without=_STATE)
        if strategy == "checkpoint":
            self._send(checkpoint, message=f"{message}, to be resumed", inside="last-checkpoint")
        if strategy == "all_checkpoints":
            self._send(checkpoint, message=f"{message}, to be resumed", inside=checkpoint.name)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        for what, upload in self._pending:
            self._collect(what, upload, wait=True)
        self._pending = []
        shutil.rmtree(Path(self._config.output_dir) / STAGED, ignore_errors=True)

    def push(self, directory: Path, message: str, *, revision: str | None = None) -> str:
        """Uploads a saved model and waits for it; where it is now. Raises HubError, which says where it still lies."""
        hub = self.hub()
        if revision is not None:
            hub = Hub(api=hub.api, repository=hub.repository, revision=revision)
        try:
            of_the_run = directory.resolve() == Path(self._config.output_dir).resolve()
            without = beside_the_model(directory) if of_the_run else ()
            return str(hub.upload(directory, message=message, without=without).result())
        except Exception as error:
            raise HubError(
                f"{directory} could not be uploaded to {hub.repository} ({reason(error)}). The model is whole there; "
                f"upload it with `hf upload {hub.repository} {directory}`"
            ) from error

    def push_if_possible(self, directory: Path) -> None:
        """The same for a model that was saved; a failure is said."""
        try:
            self._say(f"Uploaded: {self.push(directory, 'Model save')}")
        except HubError as error:
            self.failed += 1
            self._say(str(error))

    def _send(self, checkpoint: Path, **how: Any) -> None:
        try:
            staged = Path(self._config.output_dir) / STAGED / f"{checkpoint.name}-{how.get('inside') or 'model'}"
            shutil.rmtree(staged, ignore_errors=True)
            shutil.copytree(checkpoint, staged, copy_function=_link)
            upload = self.hub().upload(staged, **how)
        except Exception as error:  # whatever a library raises is not worth a run
            self._miss(str(how["message"]), error)
            return
        upload.add_done_callback(lambda done: shutil.rmtree(staged, ignore_errors=True))
        self._pending.append((str(how["message"]), upload))

    def _collect(self, what: str, upload: Future[Any], *, wait: bool = False) -> bool:
        """Whether the upload is over; says if it failed."""
        if not wait and not upload.done():
            return False
        if (error := upload.exception()) is not None:
            self._miss(what, error)
        return True

    def _miss(self, what: str, error: BaseException) -> None:
        self.failed += 1
        self._say(f"Not uploaded: {what} ({reason(error)}). The checkpoint is in {self._config.output_dir}.")


def beside_the_model(directory: Path) -> list[str]:
    """Patterns of what a run's directory holds beside a model that was saved into it: rows, samples, checkpoints."""
    folders = [path.name for path in directory.iterdir() if path.is_dir() and path.name != ADAPTER_FOLDER]
    return [*_RUN, *(f"{glob.escape(name)}/*" for name in folders)]


def _link(source: str, target: str) -> None:
    """The file under another name, without a copy of its bytes where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""`StreamingConfig`: whether rows are read before the training or during it."""

from collections.abc import Iterator

from posttrain.config.base import option
from posttrain.config.dataset import DatasetConfig

_DATA = "Data and output"


class StreamingConfig(DatasetConfig):
    """The fields of a training that can read its rows while it goes on."""

    streaming: bool | None = option(
        None, "Read rows as they are needed, with max_steps; none = only of an IterableDataset.", group=_DATA
    )
    shuffle_buffer_size: int = option(
        1000, "Rows of a stream that are in memory, from which the next one is drawn.", group=_DATA, ge=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if not self.streaming:
            return
        if self.max_steps < 1:
            yield "streaming", "streaming=true does not know how many rows there are: set max_steps"
        if self.train_sampling_strategy == "group_by_length":
            yield (
                "train_sampling_strategy",
                "group_by_length needs all rows before the training, and streaming=true reads them during it",
            )
        for name in ("logging_strategy", "eval_strategy", "save_strategy"):
            if getattr(self, name) == "epoch":
                yield name, f"{name}=epoch needs the end of an epoch, which a stream does not know ahead; write steps"
        for name in ("dataloader_num_workers", "dataset_num_proc", "ignore_data_skip", "dataloader_drop_last"):
            if getattr(self, name):
                yield name, f"{name}={getattr(self, name)!r} is not done with streaming=true; leave one out"
        for name in ("packing", "shuffle_dataset", "sync_ref_model"):
            if getattr(self, name, False):
                yield name, f"{name}=true needs more than streaming=true has at once; leave one out"
        if getattr(self, "precompute_ref_log_probs", None):
            yield (
                "precompute_ref_log_probs",
                "precompute_ref_log_probs=true asks the reference about all rows before the training, and "
                "streaming=true asks it in every step; leave one out",
            )

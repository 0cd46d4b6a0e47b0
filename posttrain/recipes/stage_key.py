"""Whether a stage's inputs are still what they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from posttrain.config.base import Config
from posttrain.config.identity import path_identity as path_identity
from posttrain.config.identity import read_paths as read_paths
from posttrain.config.reporting import ReportingConfig

# They change how a run is shown or where it lies, not what it computes.
_NOT_RESULT = frozenset(
    [
        "output_dir",
        "resume_from_checkpoint",
        "disable_tqdm",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "skip_memory_metrics",
        "dataloader_num_workers",
        "dataset_num_proc",
        *ReportingConfig.model_fields,
    ]
)


def stage_key(method: str, fields: Config, reads: tuple[str, ...]) -> dict[str, Any]:
    """What a finished stage is known by: its method, the hash of its fields, and its inputs' identities."""
    values = {k: v for k, v in fields.to_dict().items() if k not in _NOT_RESULT and k not in reads}
    written = json.dumps(values, sort_keys=True, ensure_ascii=False)
    inputs = {name: _identity(value) for name in reads if (value := getattr(fields, name)) is not None}
    return {
        "method": method,
        "fields": hashlib.sha256(written.encode()).hexdigest(),
        "inputs": inputs,
    }


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, what differs between two keys: "its fields", "its train_dataset" ..."""
    before, after = old.get("inputs", {}), new["inputs"]
    said = [f"its {name}" for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    if old.get("method") != new["method"] or old.get("fields") != new["fields"]:
        said.insert(0, "its fields")
    return " and ".join(said)


def _identity(value: Any) -> str:
    """A hash of what a field names, with what lies under it."""
    parts = [path_identity(path) for path in read_paths(value)]
    return parts[0] if isinstance(value, str) else hashlib.sha256(f"{value}{parts}".encode()).hexdigest()

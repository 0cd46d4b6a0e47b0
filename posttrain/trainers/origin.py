"""What a run was made from: the model it began with and the files it read, each with a hash; for its model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

FILE = "origin.json"
_ADAPTER = ("lora_", "modules_to_save.", "trainable_tokens_")


def base_hash(model: nn.Module) -> str:
    """A hash of the weights; of a model with an adapter, of those below the adapter, under the names they had."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(model, PeftModel):
            if any(part in name for part in _ADAPTER):
                continue
            name = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace("original_module.", "")
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def origin(
    model: nn.Module, *, method: str, report: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run is about to be made from, as plain values; `settings` are those that the source of batches keeps."""
    config: Any = model.config
    adapter = None
    if isinstance(model, PeftModel):
        kind = model.peft_config[model.active_adapter]
        adapter = {"type": str(getattr(kind.peft_type, "value", kind.peft_type)), "r": getattr(kind, "r", None),
                   "alpha": getattr(kind, "lora_alpha", None)}  # fmt: skip
    return {
        "method": method,
        "base_model": getattr(config, "_name_or_path", "") or None,
        "base_model_hash": base_hash(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "adapter": adapter,
        "files": [_file(path) for path in _files(report or {})],
        "data_hash": settings.get("training data"),
    }


def write_origin(directory: Path, found: Mapping[str, Any]) -> None:
    """Writes `origin.json`."""
    (directory / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _files(report: Mapping[str, Any]) -> Iterable[Path]:
    """The files that a report on data names, those in a directory one by one."""
    for source in [part.get("source") for part in report.get("sources") or ()] or [report.get("source")]:
        path = Path(str(source)).expanduser()
        if source and path.is_file():
            yield path
        elif source and path.is_dir():
            yield from sorted(inside for inside in path.rglob("*") if inside.is_file())


def _file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}

"""An Axolotl file as a stage of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.imports.axolotl_keys import KEYS, SAME, SAME_OF_TRL, defaults, method_of
from posttrain.config.imports.translation import File, Imported, Note, settle, to, translate
from posttrain.errors import ConfigError

TOOL = "Axolotl"
_AUTO = "rows are told by their columns"
_OF_MESSAGES = ("from", "role"), ("value", "content")
# The columns of a type, by the names that are read here; what is not in the table has them already.
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "intel": {"prompt": "question"},
    "argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    "prompt_pairs": {},
    "ultra": {},
    "icr": {"prompt": "input"},
    "argilla_chat": {},
}
_FIELDS = {  # what names a column in a data set's entry -> what the column is read as
    "field_messages": "messages", "field": "text", "text_column": "text", "field_tools": "tools",
    "field_instruction": "instruction", "field_input": "input", "field_output": "output", "field_system": "system",
    "field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected", "field_completion": "completion",
    "field_label": "label",
}  # fmt: skip
_SOURCE = {"name": "config", "revision": "revision"}
_IDLE = ("type", "path", "data_files", "ds_type", "split", "trust_remote_code", "preprocess_shards", "roles")


def from_axolotl(given: File, source: str) -> Imported:
    """The stage that the file describes. Raises ConfigError for an `rl` that is not there, or a file without data."""
    found = Imported(
        tool=TOOL, source=source, method=method_of(given, source), given=given, output_dir=given.get("output_dir")
    )
    trl = given.get("trl") or {}
    flat = {**given, **{f"trl.{name}": value for name, value in trl.items()}}
    table = {**KEYS, **{f"trl.{name}": to(name) for name in SAME_OF_TRL}}
    translate(flat, table, passed=SAME, found=found)
    rows = given.get("datasets") or given.get("pretraining_dataset")
    if not rows:
        raise ConfigError(f"{source}: names no datasets")
    _datasets(rows, "datasets", "train_dataset", found)
    if given.get("test_datasets"):
        _datasets(given["test_datasets"], "test_datasets", "eval_dataset", found)
        found.values.setdefault("eval_strategy", "epoch")
        found.origins.setdefault("eval_strategy", "test_datasets")
    settle(found, defaults(given))
    return found


def _datasets(rows: Any, key: str, name: str, found: Imported) -> None:
    entries = [rows] if isinstance(rows, str | Mapping) else rows
    several = [
        _source({"path": entry} if isinstance(entry, str) else entry, f"{key}[{index}]", found)
        for index, entry in enumerate(entries)
    ]
    sources = [source for sources in several for source in sources]
    plain = [source["path"] if set(source) == {"path"} else source for source in sources]
    found.values[name] = plain[0] if len(plain) == 1 else plain
    found.origins[name] = key


def _source(entry: Mapping[str, Any], place: str, found: Imported) -> list[dict[str, Any]]:
    """The entry of a data set as sources: one, or one for each of its files."""
    if not entry.get("path"):
        raise ConfigError(f"{found.source}: {place} has no path")
    files = entry.get("data_files") or entry["path"]
    source: dict[str, Any] = {ours: entry[theirs] for theirs, ours in _SOURCE.items() if entry.get(theirs)}
    if entry.get("split") not in (None, "train"):
        source["split"] = entry["split"]
    kind = entry.get("type")
    described = {**(kind if isinstance(kind, Mapping) else {}), **{k: v for k, v in entry.items() if v is not None}}
    columns = dict(_COLUMNS.get(str(kind).rpartition(".")[2], {})) if isinstance(kind, str) else {}
    columns |= {_FIELDS[name]: column for name, column in described.items() if name in _FIELDS and column}
    if found.method != "sft" and "messages" in columns:  # the prompt of the answers that are compared
        columns["prompt"] = columns.pop("messages")
    if columns := {target: column for target, column in columns.items() if target != column}:
        source["columns"] = columns
    for name, value in described.items():
        if name not in (*_IDLE, *_SOURCE, *_FIELDS) and (text := _lost(name, value)):
            found.lost.append(Note(name=f"{place}.{name}", value=value, text=text))
    return [{"path": file, **source} for file in ([files] if isinstance(files, str) else files)]


def _lost(name: str, value: Any) -> str:
    """Why a setting of a data set is not carried over; empty where there is nothing to carry."""
    if name == "message_property_mappings":
        role, content = value.get("role", "role"), value.get("content", "content")
        if role in _OF_MESSAGES[0] and content in _OF_MESSAGES[1]:
            return ""
        return "messages have role and content, or from and value; posttrain data convert writes other files"
    if name in ("message_field_role", "message_field_content"):
        return "" if value in (*_OF_MESSAGES[0], *_OF_MESSAGES[1]) else "messages have role and content"
    if name == "roles_to_train":
        return "" if value in (["assistant"], ["gpt"], ["assistant", "gpt"]) else "the assistant's turns are trained"
    if name == "train_on_eos":
        return "" if value == "turn" else "the token that ends a trained turn is trained"
    if name == "chat_template":
        return "" if value == "tokenizer_default" else "rows are rendered by one template, the tokenizer's own"
    if name in ("format", "no_input_format", "system_format", "prompt_format", "chosen_format", "rejected_format",
                "completion_format", "system_prompt"):  # fmt: skip
        return "rows are rendered by the chat template; posttrain data convert writes other rows"
    return f"{_AUTO}, and nothing else is said of a source but config, split, revision, columns and rows"

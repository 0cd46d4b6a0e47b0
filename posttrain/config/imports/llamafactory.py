"""A LLaMA-Factory training file, with its `dataset_info.json`, as a stage of a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.config.imports.llamafactory_keys import KEYS, defaults, method_of, names
from posttrain.config.imports.translation import File, Imported, Note, settle, translate
from posttrain.config.methods import METHODS
from posttrain.errors import ConfigError, nearest

TOOL = "LLaMA-Factory"
_INFO = "dataset_info.json"
# what a column is called there -> what is read here
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
_RATED = {"chosen": "chosen", "rejected": "rejected", "kto_tag": "label", "tools": "tools"}
_TAGS = ({"role_tag": "from", "content_tag": "value"}, {"role_tag": "role", "content_tag": "content"})
_ROLES = {
    "user_tag": ("human", "user"), "assistant_tag": ("gpt", "assistant"), "system_tag": ("system",),
    "observation_tag": ("observation", "tool"), "function_tag": ("function_call",),
}  # fmt: skip
_ABOUT = (
    "file_name",
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "formatting",
    "ranking",
    "subset",
    "split",
    "columns",
    "tags",
    "num_samples",
)


def from_llamafactory(given: File, source: str) -> Imported:
    """The stage that the file describes. Raises ConfigError for a stage or a dataset that is not there."""
    method = method_of(given)
    if not method:
        stages = ("pt", "sft", "rm", "ppo", "dpo", "kto")
        raise ConfigError(
            f"{source}: stage={given['stage']!r}{nearest(str(given['stage']), stages)} (there are {', '.join(stages)})"
        )
    found = Imported(tool=TOOL, source=source, method=method, given=given, output_dir=given.get("output_dir"))
    translate(given, KEYS, passed=_of_transformers(), found=found)
    _datasets(given, source, found)
    settle(found, defaults(given))
    return found


def _of_transformers() -> set[str]:
    """The names of transformers' TrainingArguments, which a file may hold: those that every training knows."""
    shapes = [METHODS[method].fields for method in ("sft", "dpo")]
    tables = [(s.model_fields, s.renamed, s.fixed, s.no_effect, s.unsupported) for s in shapes]
    return set.intersection(*({name for table in several for name in table} for several in tables))


def _datasets(given: File, source: str, found: Imported) -> None:
    """Sets train_dataset and eval_dataset from the names in the file."""
    for key, name in (("dataset", "train_dataset"), ("eval_dataset", "eval_dataset")):
        if not given.get(key):
            continue
        info, home = _info(given, source)
        sources = [_source(dataset, info, home, key, found) for dataset in names(given[key])]
        if key == "dataset":
            _weigh(sources, given, found)
        plain = [entry["path"] if set(entry) == {"path"} else entry for entry in sources]
        found.values[name] = plain[0] if len(plain) == 1 else plain
        found.origins[name] = key


def _info(given: File, source: str) -> tuple[Mapping[str, Any] | None, Path]:
    """The datasets by name and the directory of their files; None where names are those of the Hub."""
    named = str(given.get("dataset_dir") or "data")
    if named == "ONLINE":
        return None, Path()
    beside = [Path(named), *(parent / named for parent in Path(source).resolve().parents)]
    for home in beside:
        if (home / _INFO).is_file():
            try:
                return json.loads((home / _INFO).read_text(encoding="utf-8")), home
            except json.JSONDecodeError as error:
                raise ConfigError(f"{home / _INFO} line {error.lineno}: not valid JSON: {error.msg}") from None
    raise ConfigError(
        f"{source}: dataset_dir={named!r} has no {_INFO}, looked for from here and from the file's directory up; "
        "write the directory in which it lies"
    )


def _source(dataset: str, info: Mapping[str, Any] | None, home: Path, key: str, found: Imported) -> dict[str, Any]:
    """One dataset as a source: where its rows are, and which of its columns are read as what."""
    if info is None:
        return {"path": dataset}
    if dataset not in info:
        raise ConfigError(f"{found.source}: {key} names {dataset!r}, {home / _INFO} does not{nearest(dataset, info)}")
    about = info[dataset]
    if "file_name" in about:
        entry: dict[str, Any] = {"path": os.path.normpath(home / about["file_name"])}
    elif "hf_hub_url" in about:
        entry = {"path": about["hf_hub_url"]}
    else:
        raise ConfigError(f"{home / _INFO}: {dataset!r} has neither file_name nor hf_hub_url, and nothing else is read")
    entry |= {ours: about[theirs] for theirs, ours in _OF_SOURCE.items() if about.get(theirs) not in (None, "train")}
    if columns := _columns(dataset, about, found):
        entry["columns"] = columns
    for name in set(about) - set(_ABOUT):
        found.lost.append(Note(name=f"{dataset}.{name}", value=about[name], text=f"not read of {_INFO}"))
    return entry


_OF_SOURCE = {"subset": "config", "split": "split", "num_samples": "rows"}


def _columns(dataset: str, about: Mapping[str, Any], found: Imported) -> dict[str, str]:
    """The columns whose names are not those that are read here."""
    given, tags = about.get("columns") or {}, about.get("tags") or {}
    roles = {tag: tags[tag] for tag in ("role_tag", "content_tag") if tag in tags}
    if not any(roles.items() <= known.items() for known in _TAGS):
        found.lost.append(
            Note(name=f"{dataset}.tags", value=roles, text="messages have role and content, or from and value")
        )
    for tag, known in _ROLES.items():
        if tag in tags and tags[tag] not in known:
            text = f"the role is one of {', '.join(known)}; posttrain data convert writes other files"
            found.lost.append(Note(name=f"{dataset}.tags.{tag}", value=tags[tag], text=text))
    sharegpt = about.get("formatting") == "sharegpt"
    # beside two answers the conversation is the prompt, which is read of that column only
    as_it_is = given.get("messages") == "messages" and not about.get("ranking")
    talk = "messages" if as_it_is else "conversations"
    ours: dict[str, str] = {**_RATED, **({"messages": talk, "system": "system"} if sharegpt else _ALPACA)}
    if found.given.get("stage") == "pt":
        ours, given = {"prompt": "text"}, {"prompt": given.get("prompt", "instruction")}
    for name in given:
        if name not in ours:
            text = "only text is trained" if name in ("images", "videos", "audios") else "nothing here reads it"
            found.lost.append(Note(name=f"{dataset}.columns.{name}", value=given[name], text=text))
    pairs = {ours[name]: column for name, column in given.items() if name in ours and column}
    return {target: column for target, column in pairs.items() if target != column}


def _weigh(sources: list[dict[str, Any]], given: File, found: Imported) -> None:
    """Gives the sources of a mixture their weights."""
    strategy = given.get("mix_strategy", "concat")
    if strategy == "concat":
        return
    shares = [float(share) for share in names(given["interleave_probs"])] if given.get("interleave_probs") else []
    for entry, share in zip(sources, shares or [1.0] * len(sources)):
        entry["weight"] = share
    if len(sources) > 1:
        ends = "first_exhausted" if strategy == "interleave_under" else "all_exhausted"
        found.values["stopping_strategy"], found.origins["stopping_strategy"] = ends, "mix_strategy"

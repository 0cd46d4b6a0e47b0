"""The model card: how a model was made, on what data and with what result, in a form that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from posttrain.report.files import number, read_lines, read_object, read_text, read_yaml
from posttrain.report.text import short, visible

MARK = "<!-- written by posttrain; remove this line to keep your own changes -->"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$!])")
_MAIN = ("learning_rate", "lr_scheduler_type", "optim", "num_train_epochs", "max_steps", "per_device_train_batch_size",
         "gradient_accumulation_steps", "max_length", "loss_type", "beta", "bf16", "dtype", "seed")  # fmt: skip
_SUMMARY = ("train_loss", "num_tokens", "train_runtime")
_SECRET = ("hub_token",)

Row = tuple[str, str]


def model_card(
    run: Path,
    *,
    step: int | None = None,
    name: str | None = None,
    datasets: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> str:
    """The card of the model that a run made; `step` is that of its weights, where they are not the last.

    Everything in it is read from the run's directory; text that comes from data is escaped.
    """
    made, config = read_object(run / "origin.json"), read_yaml(run / "config.yaml")
    data, environment = read_object(run / "data.json"), read_object(run / "environment.json")
    lines, gate = read_lines(run / "metrics.jsonl"), read_object(run / "gate.json")
    method = str(made.get("method") or "training")
    title = name or run.resolve().name
    steps = [int(at) for line in lines if (at := number(line.get("step"))) is not None]
    step = step if step is not None else max(steps, default=0)
    parts = [
        _front_matter(made, data, method, datasets, tags),
        MARK,
        f"# {escape(title)}",
        _sentence(made, data, environment, method),
        "## How it was made",
        _table("Setting", "Value", [*_made(made, method, step), *_settings(config)]),
        _folded("All settings", "yaml", yaml.safe_dump(_public(config), sort_keys=False, allow_unicode=True)),
        "## Data",
        _table("Data", "Value", _data(made, data)),
        "## Result",
        _table("Metric", "Value", _results(lines, step)),
        *_measured(lines, step),
        *_decided(gate),
        *_alarms(lines),
        "## Versions",
        _table("What", "Version", _versions(environment)),
        *_command(environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def listed(names: str | Sequence[str] | None) -> list[str]:
    """One name, several or none as a list."""
    return [names] if isinstance(names, str) else list(names or ())


def write_card(directory: Path, card: str) -> str | None:
    """Writes `README.md` there; returns why not, where somebody's own is in the way."""
    file = directory / "README.md"
    if file.exists() and MARK not in read_text(file):
        return f"{file} was not written by posttrain and is kept: no model card was written"
    file.write_text(card, encoding="utf-8")
    return None


def escape(value: Any) -> str:
    """The value as text in one line of Markdown that means nothing but itself."""
    text = " ".join(visible(value).split())
    return _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;"))


def _front_matter(
    made: Mapping[str, Any], data: Mapping[str, Any], method: str, datasets: Sequence[str], tags: Sequence[str]
) -> str:
    base = str(made.get("base_model") or "")
    known = {source for source in _sources(data) if _of_hub(source)}
    fields: dict[str, Any] = {"library_name": "transformers"}
    fields["pipeline_tag"] = "text-classification" if method == "Reward" else "text-generation"
    if _of_hub(base):
        fields["base_model"] = base
    if licence := _licence(base):
        fields["license"] = licence
    if names := sorted({*datasets, *known}):
        fields["datasets"] = names
    fields["tags"] = sorted({"posttrain", method.lower(), *(["lora"] if made.get("adapter") else []), *tags})
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _licence(base: str) -> Any:
    """The licence that the base model's own card names, where it lies on this machine."""
    text = read_text(Path(base) / "README.md") if base and Path(base).is_dir() else ""
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        fields = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    return fields.get("license") if isinstance(fields, dict) else None


def _of_hub(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and not Path(name).exists() and not Path(name).suffix.startswith(".json")


def _sources(data: Mapping[str, Any]) -> list[str]:
    several = [part.get("source") for part in data.get("sources") or () if isinstance(part, Mapping)]
    return [str(source) for source in several or [data.get("source")] if source]


def _sentence(made: Mapping[str, Any], data: Mapping[str, Any], environment: Mapping[str, Any], method: str) -> str:
    base = escape(made.get("base_model") or "a model given in memory")
    rows = _count(data.get("rows_kept", data.get("rows")))
    version = (environment.get("versions") or {}).get("posttrain")
    on = f" on {rows} rows of {escape(', '.join(_sources(data)))}" if rows else ""
    by = f" with posttrain {escape(version)}" if version else " with posttrain"
    kind = "scores answers" if method == "Reward" else "writes text"
    return f"This model {kind}. It is {base}, trained by {escape(method)}{on}{by}."


def _made(made: Mapping[str, Any], method: str, step: int) -> list[Row]:
    rows = [
        ("method", method),
        ("base model", made.get("base_model")),
        ("hash of its weights", made.get("base_model_hash")),
    ]
    total, trained = made.get("parameters"), made.get("trained_parameters")
    rows.append(("parameters trained", f"{_count(trained)} of {_count(total)}" if total else None))
    if isinstance(adapter := made.get("adapter"), Mapping):
        rows.append(("adapter", f"{adapter.get('type')}, r {adapter.get('r')}, alpha {adapter.get('alpha')}"))
    return [*((label, str(value)) for label, value in rows if value), ("steps", _count(step))]


def _settings(config: Mapping[str, Any]) -> list[Row]:
    return [(name, _value(config[name])) for name in _MAIN if config.get(name) not in (None, -1)]


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _SECRET}


def _data(made: Mapping[str, Any], data: Mapping[str, Any]) -> list[Row]:
    rows = [("source", ", ".join(_sources(data)))]
    for name in ("format", "understood", "trained"):
        rows.append((name.replace("understood", "how columns were read"), str(data.get(name) or "")))
    for name in ("rows_read", "rows_kept", "rows", "truncated", "tokens", "trained_tokens"):
        rows.append((name.replace("_", " "), _count(data.get(name))))
    dropped = data.get("dropped")
    for reason, one in dropped.items() if isinstance(dropped, Mapping) else ():
        rows.append((f"dropped, {reason}", _count(one.get("count") if isinstance(one, Mapping) else one)))
    for file in made.get("files") or ():
        rows.append((f"SHA-256 of {file.get('path')}", str(file.get("sha256"))))
    rows.append(("hash of the tokens", str(made.get("data_hash") or "")))
    return [(label, value) for label, value in rows if value]


def _results(lines: Sequence[Mapping[str, Any]], step: int) -> list[Row]:
    """The run's summary, and its first and last evaluation up to the step."""
    found: list[Row] = []
    summary: Mapping[str, Any] = next((line for line in reversed(lines) if "train_runtime" in line), {})
    found += [(name, _value(summary[name])) for name in _SUMMARY if number(summary.get(name)) is not None]
    evaluated = [
        line for line in lines if any(key.startswith("eval_") for key in line) and (line.get("step") or 0) <= step
    ]
    for name in evaluated[-1] if evaluated else ():
        values = [value for line in evaluated if (value := number(line.get(name))) is not None]
        if name.startswith("eval_") and name != "eval_runtime" and values:
            first = f" (at step {evaluated[0].get('step')}: {values[0]:.6g})" if len(values) > 1 else ""
            found.append((f"{name} at step {evaluated[-1].get('step')}", f"{values[-1]:.6g}{first}"))
    return found


def _measured(lines: Sequence[Mapping[str, Any]], step: int) -> list[str]:
    """What was measured of the start and of the model: what was gained, what was lost, how far it moved."""
    start = {name: value for line in lines if line.get("step") == 0 for name, value in line.items()}
    end = {name: value for line in lines if line.get("step") == step for name, value in line.items()}
    rows: list[Sequence[str]] = []
    for name, after in end.items():
        group, _, task = name.partition("/")
        before, after = number(start.get(name)), number(after)
        if group not in ("target", "retention") or "/" in task or before is None or after is None:
            continue
        rows.append((group, task, short(before), short(after), f"{100 * (after - before):+.1f} points"))
    drift = [
        (name, short(value)) for name in end if name.startswith("drift/") and (value := number(end[name])) is not None
    ]
    parts = []
    if rows:
        parts.append("What training gained (target) and what it lost (retention), as shares of the questions asked:")
        parts.append(_rows(("Kind", "Task", "Before", "After", "Change"), rows))
    if drift:
        parts += ["How far the model moved from its start:", _table("Drift", "Value", drift)]
    return parts


def _decided(gate: Mapping[str, Any]) -> list[str]:
    sentence = gate.get("sentence")
    return [f"The gate's decision: {escape(sentence)}"] if sentence else []


def _alarms(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    said = {str(line["alarm"]): line for line in lines if isinstance(line.get("alarm"), str)}
    if not said:
        return []
    found = [
        f"- {escape(name)} (step {_count(line.get('step'))}): {escape(line.get('text', ''))}"
        for name, line in said.items()
    ]
    return ["Alarms of the run:", "\n".join(found)]


def _versions(environment: Mapping[str, Any]) -> list[Row]:
    versions, hardware = environment.get("versions") or {}, environment.get("hardware") or {}
    return [(str(name), str(value)) for name, value in {**versions, **hardware}.items()]


def _command(environment: Mapping[str, Any]) -> list[str]:
    words = environment.get("command")
    if not isinstance(words, list) or not words:
        return []
    return ["Made by this command:", _fenced("sh", " ".join(visible(word) for word in words))]


def _folded(title: str, language: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{_fenced(language, text)}\n\n</details>"


def _fenced(language: str, text: str) -> str:
    """The text as a block of code, its fence longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text.rstrip())}\n{fence}"


def _table(first: str, second: str, rows: Iterable[Row]) -> str:
    return _rows((first, second), list(rows))


def _rows(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heading, ["---"] * len(heading), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(value: Any) -> str:
    found = number(value)
    return "" if found is None else f"{found:,.0f}"


def _value(value: Any) -> str:
    return f"{found:.6g}" if not isinstance(value, int) and (found := number(value)) is not None else str(value)

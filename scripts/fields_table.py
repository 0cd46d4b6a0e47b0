"""Writes docs/fields.md: what became of every field and loss of TRL's SFT and DPO. `python -m scripts.fields_table`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config import DPOConfig, SFTConfig
from posttrain.config.base import Config, choices
from scripts.fields_of_trl import APART, DPO_FIELDS, DPO_LOSSES, SFT_FIELDS, SFT_LOSSES, VERSION
from tests.observed_fields import OBSERVED, OBSERVED_LOSSES

PAGE = Path(__file__).parents[1] / "docs" / "fields.md"
HONOURED, RENAMED = "honoured", "renamed to"
CONFIGS: Mapping[str, tuple[type[Config], Sequence[str], Sequence[str]]] = {
    "SFT": (SFTConfig, SFT_FIELDS, SFT_LOSSES),
    "DPO": (DPOConfig, DPO_FIELDS, DPO_LOSSES),
}
# fields that are taken as they are and have nothing to change
IDLE: Mapping[str, str] = {"remove_unused_columns": "columns that are not used never reach the model"}


# where a field means more or less here, or has another default, and why
NOTES: Mapping[str, str] = {
    "accelerator_config": "`split_batches` is honoured; what tunes a data loader is taken and changes nothing",
    "auto_find_batch_size": "on unless it is set to false: a pass is cut smaller, and the rows of a step stay",
    "dataloader_num_workers": "threads, which lay out the batches of the next steps in the order of the seed",
    "ddp_timeout": "twelve hours, because one process measures and saves while the others wait",
    "do_train": "true; what `do_train` and `do_eval` say is done on the command line, as in a training script",
    "enable_jit_checkpoint": "true: SIGTERM ends a run with a checkpoint, and Ctrl-C does the same",
    "fp16": "a step whose gradient overflows is computed again with half the scale, so no batch is lost",
    "include_for_metrics": "`loss` is a row's own mean negative log-likelihood. `compute_metrics` is an argument of "
    "the trainers on demonstrations, pairs and marked answers; logits are there before trained tokens, zeros elsewhere",
    "log_level": "`warning` and above keep a run from telling its progress; what goes wrong is still said at `warning`",
    "logging_nan_inf_filter": "such a step is skipped either way and counted as `nonfinite_steps`",
    "optim": "schedule-free, LOMO and layer-wise optimisers are refused; those of bitsandbytes, torchao, grokadamw and "
    "torch-optimi need the package; galore_adamw needs none",
    "optim_args": "any argument of the optimiser's class by its name, `betas=(0.9, 0.95),eps=1e-6`",
    "per_device_eval_batch_size": "none: a pass holds as many rows as `max_tokens_per_pass` allows",
    "precompute_ref_log_probs": "yes, unless the reference is synced; false asks it at each step",
    "save_strategy": "the last step is saved too, unless it is `no`",
    "torch_compile": "the layers are compiled one after another; what is hand-written for them gives way",
    "use_cache": "none: the model's configuration stays as it is; true or false is written into it",
}


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of a field or a loss."""

    status: str
    test: str = ""

    @property
    def observed(self) -> bool:
        return bool(self.test)


def fate_of(config: type[Config], name: str) -> Fate:
    """What became of a field in this configuration. A field that no test observes is not honoured."""
    test = OBSERVED.get(name, "")
    if name in config.renamed:
        target = " and ".join(f"`{field}`" for field in _targets(config, name)) or "nothing"
        return Fate(status=f"{RENAMED} {target}", test=test)
    if name in config.model_fields:
        if name in IDLE:
            return Fate(status=f"no effect here because {IDLE[name]}")
        return Fate(status=HONOURED, test=test) if test else Fate(status="taken; no test observes it")
    if name in config.fixed:
        fixed = config.fixed[name]
        only = " or ".join(f"`{value!r}`" for value in fixed.values)
        return Fate(status=f"refused, but for {only}, because {fixed.reason}")
    if name in config.no_effect:
        return Fate(status=f"no effect here because {config.no_effect[name] or 'it is so anyway'}")
    if name in config.unsupported:
        return Fate(status=f"refused because {config.unsupported[name]}")
    raise KeyError(f"{config.__name__} does not know {name}")


def loss_of(config: type[Config], name: str) -> Fate:
    """What became of a value of `loss_type`."""
    if name in OBSERVED_LOSSES.get(config.__name__, {}):
        entry = OBSERVED_LOSSES[config.__name__][name]
        offered = name in choices(config.model_fields["loss_type"].annotation)
        return Fate(status=HONOURED if offered else f"{RENAMED} `nll`, which computes the same", test=entry)
    reason = config.unsupported_values.get("loss_type", {}).get(name)
    if reason is None:
        raise KeyError(f"{config.__name__} does not know loss_type={name}")
    return Fate(status=f"refused because {reason}")


def _targets(config: type[Config], name: str) -> list[str]:
    return list(config.renamed[name].apply(True))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Fields of one configuration."""

    fields: int
    apart: int
    honoured: int  # of the rest, renamed ones included, each with a test that observes its effect

    @property
    def rest(self) -> int:
        return self.fields - self.apart


def counts(kind: str) -> Counts:
    """How many of a configuration's fields are honoured."""
    config, fields, _ = CONFIGS[kind]
    rest = [name for name in fields if name not in APART]
    return Counts(
        fields=len(fields), apart=len(fields) - len(rest),
        honoured=sum(fate_of(config, name).observed for name in rest),
    )  # fmt: skip


def _rows(names: Sequence[str]) -> Iterator[tuple[str, str, Fate]]:
    """(field, of which configurations, fate), a field twice where its fates differ."""
    for name in names:
        fates = {kind: fate_of(config, name) for kind, (config, fields, _) in CONFIGS.items() if name in fields}
        if len(set(fates.values())) == 1:
            yield name, ", ".join(fates), next(iter(fates.values()))
        else:
            yield from ((name, kind, fate) for kind, fate in fates.items())


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _test(fate: Fate) -> str:
    return f"`{fate.test.removeprefix('tests/')}`" if fate.test else ""


def page() -> str:
    """The page, whole."""
    every = [*SFT_FIELDS, *(name for name in DPO_FIELDS if name not in SFT_FIELDS)]
    lines = [
        f"# Fields of TRL {VERSION}",
        "",
        f"What became of every field and every loss of TRL {VERSION}'s `SFTConfig` and `DPOConfig`. A field is",
        "honoured where a test observes its effect, which the last column names. Fields whose effect cannot be seen",
        "without CUDA, several machines or a hub are listed apart and are in no share.",
        "",
        "This page is written by `python -m scripts.fields_table` from the configurations; a test compares the two.",
        "",
        _line("configuration", "fields", "apart", "the rest", "of these honoured"),
        _line("---", "---:", "---:", "---:", "---:"),
    ]
    for kind in CONFIGS:
        found = counts(kind)
        share = f"{found.honoured} ({100 * found.honoured / found.rest:.0f}%)"
        lines.append(_line(f"{kind}Config", str(found.fields), str(found.apart), str(found.rest), share))
    lines += ["", "## Fields", "", _line("field", "of", "status", "observed by"), _line("---", "---", "---", "---")]
    for name, of, fate in _rows([name for name in every if name not in APART]):
        lines.append(_line(f"`{name}`", of, fate.status, _test(fate)))
    lines += ["", "## Fields that need more than a CPU", ""]
    lines += [_line("field", "of", "needs", "status", "observed by"), _line("---", "---", "---", "---", "---")]
    for name, of, fate in _rows([name for name in every if name in APART]):
        lines.append(_line(f"`{name}`", of, APART[name], fate.status, _test(fate)))
    lines += ["", "## Losses", "", _line("loss_type", "of", "status", "observed by"), _line("---", "---", "---", "---")]
    for kind, (config, _, losses) in CONFIGS.items():
        for name in losses:
            fate = loss_of(config, name)
            lines.append(_line(f"`{name}`", kind, fate.status, _test(fate)))
    lines += ["", "## Fields that mean something else here", ""]
    lines += ["Or have another default.", "", _line("field", "here"), _line("---", "---")]
    lines += [_line(f"`{name}`", note) for name, note in sorted(NOTES.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for kind in CONFIGS:
        print(kind, counts(kind))

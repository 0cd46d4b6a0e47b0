"""What each method of a recipe does. One literal table from the method's name to its function."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from posttrain.config.base import Config
from posttrain.config.command import (
    BCOCommand,
    DPOCommand,
    EmbeddedStage,
    EvaluateStage,
    GRPOCommand,
    KTOCommand,
    OfflineRLCommand,
    PPOCommand,
    RewardCommand,
)
from posttrain.config.curation.convert import ConvertStage
from posttrain.config.curation.filter import FilterStage
from posttrain.config.curation.lint import LintStage
from posttrain.errors import DataError, GateError


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """What a method is handed: its checked fields, its own directory, whether it goes on with a run there."""

    fields: Config
    directory: Path
    resume: bool = False  # go on from the last checkpoint in the directory
    say: Callable[[str], None] = print
    progress: Callable[[str, int, int], None] | None = None  # told what is counted, how far it is, and the total
    callbacks: Sequence[Any] = ()  # TrainerCallbacks for a method that trains


@dataclass(frozen=True, kw_only=True)
class StageOutcome:
    """What a method left behind: paths by the names that `${stage.NAME}` uses, and a few numbers to show."""

    outputs: Mapping[str, str]
    summary: Mapping[str, Any] = field(default_factory=dict)


def train_sft(run: StageRun) -> StageOutcome:
    """The outcome of supervised fine-tuning; its output is the directory of the trained model."""
    from posttrain.trainers.sft import SFTTrainer

    return _train(SFTTrainer(**_given(run)), run)


def train_dpo(run: StageRun) -> StageOutcome:
    """The outcome of preference training; its output is the directory of the trained model."""
    from posttrain.trainers.dpo import DPOTrainer

    command = cast(DPOCommand, run.fields)
    return _train(DPOTrainer(**_given(run), ref_model=command.ref_model), run)


def train_cpo(run: StageRun) -> StageOutcome:
    """The outcome of CPO or SimPO; its output is the directory of the trained model."""
    from posttrain.trainers.reference_free import CPOTrainer

    return _train(CPOTrainer(**_given(run)), run)


def train_orpo(run: StageRun) -> StageOutcome:
    """The outcome of ORPO; its output is the directory of the trained model."""
    from posttrain.trainers.reference_free import ORPOTrainer

    return _train(ORPOTrainer(**_given(run)), run)


def train_kto(run: StageRun) -> StageOutcome:
    """The outcome of KTO; its output is the directory of the trained model."""
    from posttrain.trainers.unpaired import KTOTrainer

    command = cast(KTOCommand, run.fields)
    return _train(KTOTrainer(**_given(run), ref_model=command.ref_model), run)


def train_bco(run: StageRun) -> StageOutcome:
    """The outcome of BCO; its output is the directory of the trained model."""
    from posttrain.trainers.unpaired import BCOTrainer

    command = cast(BCOCommand, run.fields)
    return _train(BCOTrainer(**_given(run), ref_model=command.ref_model), run)


def train_reward(run: StageRun) -> StageOutcome:
    """The outcome of reward modelling; its output is the directory of the reward model."""
    from posttrain.trainers.reward import RewardTrainer

    command = cast(RewardCommand, run.fields)
    trainer = RewardTrainer(**_given(run))
    trained = _train(trainer, run)
    if command.data("eval_dataset") is None:
        return trained
    measured = trainer.evaluate()  # of the model that is saved
    if trainer.held_out is not None:
        run.say(trainer.held_out.text())
    shown = {name: measured[f"eval_{name}"] for name in ("accuracy", "length_accuracy") if f"eval_{name}" in measured}
    return replace(trained, summary={**trained.summary, **shown})


def train_grpo(run: StageRun) -> StageOutcome:
    """The outcome of online reinforcement learning; its outputs are the model and the file of completions."""
    from posttrain.trainers.grpo import GRPOTrainer

    command = cast(GRPOCommand, run.fields)
    trainer = GRPOTrainer(**_given(run), reward_funcs=command.rewards())
    return _with_samples(_train(trainer, run), command.save_samples, run)


def train_ppo(run: StageRun) -> StageOutcome:
    """The outcome of PPO; its outputs are the model and the file of completions."""
    from posttrain.trainers.ppo import PPOTrainer

    command = cast(PPOCommand, run.fields)
    trainer = PPOTrainer(
        **_given(run), reward_funcs=command.rewards(), ref_model=command.ref_model, value_model=command.value_model
    )
    return _with_samples(_train(trainer, run), command.save_samples, run)


def train_offline_rl(run: StageRun) -> StageOutcome:
    """The outcome of offline reinforcement learning; its outputs are the model and what each answer weighed."""
    from posttrain.trainers.offline_rl import OfflineRLTrainer

    command = cast(OfflineRLCommand, run.fields)
    trained = _train(OfflineRLTrainer(**_given(run), ref_model=command.ref_model), run)
    return replace(trained, outputs={**trained.outputs, "weights": str(run.directory / "weights.jsonl")})


def write_embedded(run: StageRun) -> StageOutcome:
    """The outcome of writing the embedded world: its model and the directory of its data."""
    from posttrain.recipes.world import write_world

    fields = cast(EmbeddedStage, run.fields)
    return StageOutcome(
        outputs=write_world(
            run.directory,
            model=fields.model,
            seed=fields.seed,
            chat_rows=fields.chat_rows,
            problem_rows=fields.problem_rows,
        )
    )


def distill(run: StageRun) -> StageOutcome:
    """The outcome of distillation; its outputs are the rows and their card."""
    from posttrain.curation.making import run_distill

    return _made(run, run_distill, "rows")


def reject_sample(run: StageRun) -> StageOutcome:
    """The outcome of rejection sampling; its outputs are the rows, their card, and the prompts by difficulty."""
    from posttrain.curation.making import run_reject_sample

    return _made(run, run_reject_sample, "rows")


def correct_pairs(run: StageRun) -> StageOutcome:
    """The outcome of building preference pairs by correction; its outputs are the pairs and their card."""
    from posttrain.curation.making import run_pairs_correct

    return _made(run, run_pairs_correct, "pairs")


def sample_pairs(run: StageRun) -> StageOutcome:
    """The outcome of building preference pairs by sampling; its outputs are the pairs and their card."""
    from posttrain.curation.making import run_pairs_sample

    return _made(run, run_pairs_sample, "pairs")


def _made(run: StageRun, work: Callable[..., Any], unit: str) -> StageOutcome:
    from posttrain.recipes.making import make_data

    outputs, summary = make_data(run.fields, run.directory, work, unit=unit, say=run.say, progress=run.progress)
    return StageOutcome(outputs=outputs, summary=summary)


def filter_data(run: StageRun) -> StageOutcome:
    """The outcome of filtering; its outputs are the rows that stayed and their card."""
    from posttrain.curation.filters.filtering import run_filter
    from posttrain.curation.output import beside
    from posttrain.recipes.questions import question_files

    fields = cast(FilterStage, run.fields)
    against = question_files(fields.decontaminate or [], run.directory, run.say)
    path = run.directory / fields.output
    output = run_filter(fields.replace(output=str(path), decontaminate=against or None))
    run.say(output.card.text())
    card = str(beside(path, "card.json"))
    if not output.kept:
        raise DataError(f"no row of {output.consumed:,} is left to go on with; {path}.rejects.jsonl says why")
    return StageOutcome(outputs={"data": str(path), "card": card}, summary={"rows": output.kept, "of": output.consumed})


def convert_data(run: StageRun) -> StageOutcome:
    """The outcome of converting; its outputs are a JSONL file and its card."""
    from posttrain.curation.conversion.files import convert_files

    output = run.directory / "rows.jsonl"
    card = convert_files(cast(ConvertStage, run.fields), output)
    for sentence in card.notes:
        run.say(sentence)
    if not card.output["rows"]:
        raise DataError(f"no row could be converted; {output}.rejects.jsonl says why")
    return StageOutcome(outputs={"data": str(output), "card": f"{output}.card.json"}, summary=card.counts)


def lint_data(run: StageRun) -> StageOutcome:
    """The outcome of lint; its outputs are the data, as it came, and the report. Raises DataError for what fails."""
    from posttrain.curation.linting import lint_files
    from posttrain.curation.linting.options import options_of
    from posttrain.curation.linting.report import FILE

    fields = cast(LintStage, run.fields)
    report = lint_files(fields.inputs, **options_of(fields))
    written = report.write(run.directory / FILE)
    report.write_text(written.with_suffix(".txt"))
    for finding in report.findings:
        run.say(finding.line())
    if report.status >= {"error": 2, "warning": 1, "never": 3}[fields.fail_on]:
        raise DataError(
            f"the data is {report.sentence}; all of it stands in {written.with_suffix('.txt')}. Mend the data, or let "
            "the recipe go on with fail_on=never"
        )
    data = {"data": fields.inputs[0]} if len(fields.inputs) == 1 else {}
    counts = {f"{level}s": len(report.of_level(level)) for level in ("error", "warning", "note")}
    return StageOutcome(outputs={**data, "report": str(written)}, summary={"rows": report.rows, **counts})


def measure(run: StageRun) -> StageOutcome:
    """The outcome of the named tasks; its output is the file of scores."""
    from posttrain.recipes.scoring import SCORES, evaluate_stage

    fields = cast(EvaluateStage, run.fields)
    scores = evaluate_stage(
        model=fields.model,
        tasks=fields.tasks,
        directory=run.directory,
        seed=fields.seed,
        batch_size=fields.batch_size,
        trust_remote_code=fields.trust_remote_code,
        drift_from=fields.drift_from,
        neutral=fields.neutral,
        progress=run.progress,
    )
    return StageOutcome(outputs={"scores": str(run.directory / SCORES)}, summary=scores)


METHODS: Mapping[str, Callable[[StageRun], StageOutcome]] = {
    "embedded": write_embedded,
    "sft": train_sft,
    "dpo": train_dpo,
    "cpo": train_cpo,
    "orpo": train_orpo,
    "kto": train_kto,
    "bco": train_bco,
    "reward": train_reward,
    "grpo": train_grpo,
    "ppo": train_ppo,
    "offline_rl": train_offline_rl,
    "convert": convert_data,
    "distill": distill,
    "reject_sample": reject_sample,
    "pairs_correct": correct_pairs,
    "pairs_sample": sample_pairs,
    "filter": filter_data,
    "lint": lint_data,
    "evaluate": measure,
}


def run_method(method: str, run: StageRun) -> StageOutcome:
    """The outcome of a method, without transformers' own progress bars between the lines."""
    from posttrain.models.quiet import no_progress_bars

    with no_progress_bars():
        return METHODS[method](run)


def _given(run: StageRun) -> dict[str, Any]:
    """What every trainer is given: model, data, adapter, and the arguments with the stage's own directory."""
    command: Any = run.fields
    return {
        "model": command.model,
        "args": command.training().replace(output_dir=str(run.directory)),
        "train_dataset": command.data("train_dataset"),
        "eval_dataset": command.data("eval_dataset"),
        "peft_config": command.peft_settings(),
        "callbacks": list(run.callbacks),
    }


def _train(trainer: Any, run: StageRun) -> StageOutcome:
    from posttrain.recipes.scoring import TASKS

    resume = getattr(run.fields, "resume_from_checkpoint", None) or (True if run.resume else None)
    trainer.named_tasks = TASKS
    if not trainer.args.do_train:
        return StageOutcome(outputs={"model": str(getattr(run.fields, "model", ""))}, summary=_evaluated(trainer, run))
    result = trainer.train(resume_from_checkpoint=resume)
    summary = {"steps": result.global_step, "loss": result.training_loss}
    if trainer.decision is not None:
        summary |= {"gate": trainer.decision.verdict, "gate_status": trainer.decision.status}
        if trainer.decision.promoted is None:
            raise GateError(trainer.decision.sentence)
    directory = run.directory / "model"
    trainer.save_model(str(directory))
    if trainer.args.do_eval:
        summary |= _evaluated(trainer, run)
    return StageOutcome(outputs={"model": str(directory)}, summary=summary)


def _evaluated(trainer: Any, run: StageRun) -> dict[str, float]:
    """The metrics of the evaluation data, said and, where nothing was trained, written."""
    metrics: dict[str, float] = trainer.evaluate()
    run.say("evaluated: " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())))
    if not trainer.args.do_train:
        run.directory.mkdir(parents=True, exist_ok=True)
        (run.directory / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    return {name: value for name, value in metrics.items() if name != "eval_runtime"}


def _with_samples(trained: StageOutcome, kept: bool, run: StageRun) -> StageOutcome:
    if not kept:  # what a later stage reads of it is then refused by name
        return trained
    return replace(trained, outputs={**trained.outputs, "samples": str(run.directory / "samples.jsonl")})

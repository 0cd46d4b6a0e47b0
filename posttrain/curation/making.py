"""The commands that let a model make data: from what they are told to the files they leave."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.curation.answers import AnswerFields
from posttrain.config.curation.distill import DistillCommand
from posttrain.config.curation.pairs import PairsCorrectCommand, PairsSampleCommand
from posttrain.config.curation.reject_sample import RejectSampleCommand
from posttrain.config.identity import path_identity, read_paths
from posttrain.curation.answering import answer_settings
from posttrain.curation.candidates import Asking, digest
from posttrain.curation.card import Card
from posttrain.curation.corrected_pairs import correct_pairs
from posttrain.curation.distillation import distil
from posttrain.curation.editing import Editor, FunctionEditor, ModelEditor, RuleEditor
from posttrain.curation.journal import Journal
from posttrain.curation.output import FAILED, Output, beside
from posttrain.curation.rejection import Band, Rule, reject_sampled
from posttrain.curation.row_lists import RowLists
from posttrain.curation.rows import STANDARD_INPUT, Row, read_stream
from posttrain.curation.sampled_pairs import answers_to_judge, sample_pairs
from posttrain.curation.scores import JudgeScorer, RewardScorer, Scorer, rewards_key
from posttrain.sampling.opening import open_sampler
from posttrain.types import Sampler, SamplingParams

# They change where and how fast answers are made, or what is printed, and neither the answers nor the rows.
_NOT_RESULT = (
    "inputs", "output", "use_cpu", "max_rows", "trust_remote_code", "api_key_variable", "timeout_s", "max_retries",
    "concurrency", "requests_per_minute", "tokens_per_minute", "prompt_price", "completion_price",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Telling:
    """What a command tells while it works: notes on a model, and how many answers there are of how many."""

    note: Callable[[str], None] = lambda text: print(f"note: {text}", file=sys.stderr)
    progress: Callable[[int, int | None], None] | None = None
    arguments: Sequence[str] = ()  # of the command line, for the card


@dataclass(kw_only=True)
class Made:
    """What a command left: the card, and whether prompts failed that the same command asks again."""

    card: Card
    rows: int
    failed: int
    before: bool  # all was there already
    files: Mapping[str, str]


def run_distill(command: DistillCommand, telling: Telling) -> Made:
    """Distillation of the command's prompts into its output."""
    with _making(command, "data distill", telling) as (how, output):
        if not output.finished:
            rows = read_stream(command.inputs, strict=command.strict)
            distil(rows, how, output, keep_unfinished=command.keep_unfinished, distinct=command.distinct)
            _count_costs(command, output.card, how.journal)
    return _made(output)


def run_reject_sample(command: RejectSampleCommand, telling: Telling) -> Made:
    """Rejection sampling of the command's prompts; beside its output lie the prompts by how many solve them."""
    rule = Rule(
        keep=command.keep, threshold=command.threshold, k=command.k, keep_unfinished=command.keep_unfinished
    )  # fmt: skip
    path = Path(command.output)
    bands: tuple[Band, ...] = ("unsolved", "mixed", "solved")
    judged = command.solved_at is not None or command.threshold is not None
    names: dict[str, Path] = {band: beside(path, f"{band}.jsonl") for band in bands} if judged else {}
    with ExitStack() as stack:
        scorer = _rewards(command, stack)
        how, output = stack.enter_context(_making(command, "data reject-sample", telling))
        if not output.finished:
            lists = stack.enter_context(RowLists(names))

            def listed(band: Band, row: Row) -> None:
                lists.add(band, row)

            rows = read_stream(command.inputs, strict=command.strict)
            reject_sampled(rows, how, scorer, output, rule, solved_at=command.solved_at, listed=listed)
            _count_costs(command, output.card, how.journal)
    return _made(output, {name: str(file) for name, file in names.items()})


def run_pairs_correct(command: PairsCorrectCommand, telling: Telling) -> Made:
    """Preference pairs by correction from the command's prompts."""
    with ExitStack() as stack:
        rules = None if command.rules is None else RuleEditor(command.rules)  # wrong rules are found before a model
        function = None if command.function is None else _function_editor(command.function)
        how, output = stack.enter_context(_making(command, "data pairs correct", telling))
        if not output.finished:
            editor: Editor = rules or function or _model_editor(command, how, telling, stack)
            rows = read_stream(command.inputs, strict=command.strict)
            correct_pairs(
                rows, how, editor, output, max_change=command.max_change, keep_unfinished=command.keep_unfinished
            )
            if isinstance(editor, ModelEditor):
                output.card.counts |= {name.replace("_", " "): n for name, n in editor.how.journal.spent.items()}
            _count_costs(command, output.card, how.journal)
    return _made(output)


def run_pairs_sample(command: PairsSampleCommand, telling: Telling) -> Made:
    """Preference pairs by sampling from the command's prompts, or the answers for people to judge."""
    with ExitStack() as stack:
        rewards = (
            _rewards(command, stack) if command.reward else None
        )  # a wrong name is found before anything is written
        how, output = stack.enter_context(_making(command, "data pairs sample", telling))
        if not output.finished:
            rows = read_stream(command.inputs, strict=command.strict)
            if command.person:
                answers_to_judge(rows, how, output, keep_unfinished=command.keep_unfinished)
            else:
                scorer: Scorer = rewards or _judge(command, telling)
                sample_pairs(
                    rows, how, scorer, output, pairing=command.pairing, margin=command.margin,
                    max_pairs=command.max_pairs, keep_unfinished=command.keep_unfinished,
                )  # fmt: skip
            _count_costs(command, output.card, how.journal)
    return _made(output)


@contextmanager
def _making(command: AnswerFields, name: str, telling: Telling) -> Iterator[tuple[Asking, Output]]:
    """How the prompts are asked, and the output; answers made by an earlier run are there already.

    The output is decided anew each time: what takes time lies in FILE.answers.jsonl, which another threshold or another
    way to pair can be tried on without asking again.
    """
    read_stream(command.inputs)  # what cannot be read at all is found before anything is written
    settings = {name: value for name, value in command.to_dict().items() if name not in _NOT_RESULT}
    answering = answer_settings(command, command.count)
    settings["weights"] = answering["weights"]
    read = [
        value for value in (getattr(command, name, None) for name in ("reward", "function", "editor", "judge")) if value
    ]
    settings["content of reward, function, editor or judge"] = [
        path_identity(path) for value in read for path in read_paths(value)
    ]
    output = Output(
        command.output, command=name, settings=settings, inputs=command.inputs, arguments=telling.arguments, anew=True
    )
    if output.finished:
        yield Asking(open=_nobody, name=command.model, params=SamplingParams()), output
        return
    total = _total(command)
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more
        if telling.progress is not None:
            telling.progress(done, total)

    with Journal(beside(Path(command.output), "answers.jsonl"), answering) as journal:
        if journal.rows:
            telling.note(f"{journal.path}: {journal.rows:,} prompts are answered; going on")
        how = Asking(
            open=lambda: open_sampler(command.model, command.endpoint, command, note=telling.note),
            name=command.model, params=SamplingParams(**command.sampling()), count=command.count, seed=command.seed,
            system_message=command.system_message, keep_system=command.keep_system, journal=journal, progress=report,
        )  # fmt: skip
        try:
            with output:
                yield how, output
        except KeyboardInterrupt:
            telling.note(f"{journal.path}: {journal.rows:,} prompts are answered; the same command goes on")
            raise


def _nobody() -> Sampler:
    raise AssertionError("a finished output asks nothing")


def _total(command: AnswerFields) -> int | None:
    """How many answers there will be, where the inputs can be read twice."""
    if STANDARD_INPUT in command.inputs:
        return None
    return command.count * sum(1 for _ in read_stream(command.inputs))


def _rewards(command: RejectSampleCommand | PairsSampleCommand, stack: ExitStack) -> RewardScorer:
    from posttrain.rewards.combination import RewardSet

    specs = command.rewards()
    rewards = stack.enter_context(RewardSet(specs, weights=command.reward_weights))
    return RewardScorer(rewards, key=rewards_key(specs, command.reward_weights))


def _judge(command: PairsSampleCommand, telling: Telling) -> JudgeScorer:
    from posttrain.rewards.judge import PairwiseJudge

    assert command.judge is not None, "the flags were checked"
    sampler = open_sampler(command.judge, command.judge_endpoint, command, note=telling.note)
    if command.judge_endpoint is not None:
        sampler.on_failure = lambda index, error: None  # type: ignore[union-attr]
    rubric: dict[str, Any] = {} if command.rubric is None else {"rubric": command.rubric}
    key = digest(["judge", command.judge, command.judge_endpoint, path_identity(command.judge), command.rubric])
    return JudgeScorer(PairwiseJudge(sampler, **rubric), key=key)


def _function_editor(spec: str) -> FunctionEditor:
    from posttrain.rewards.files import load_function

    return FunctionEditor(load_function(spec), spec)


def _model_editor(command: PairsCorrectCommand, how: Asking, telling: Telling, stack: ExitStack) -> ModelEditor:
    """The editor, whose edits are kept beside the answers."""
    name, endpoint, instruction = str(command.editor), command.editor_endpoint, str(command.instruction)
    asked = {
        "model": name, "weights": path_identity(name) if endpoint is None else None, "endpoint": endpoint,
        "instruction": instruction, "max_tokens": command.max_tokens,
    }  # fmt: skip
    journal = stack.enter_context(Journal(beside(Path(command.output), "edits.jsonl"), asked))
    editing = Asking(
        open=lambda: open_sampler(name, endpoint, command, note=telling.note), name=name, kind="edits",
        params=SamplingParams(max_tokens=command.max_tokens, temperature=0.0), journal=journal,
    )  # fmt: skip
    return ModelEditor(editing, instruction)


def _count_costs(command: AnswerFields, card: Card, journal: Journal) -> None:
    """Puts the price of the model's tokens into the card, earlier runs included."""
    if command.prompt_price is None or command.completion_price is None:
        return
    spent = journal.spent
    cost = spent["prompt_tokens"] * command.prompt_price + spent["completion_tokens"] * command.completion_price
    card.counts["cost"] = round(cost / 1e6, 6)


def _made(output: Output, files: Mapping[str, str] | None = None) -> Made:
    card = output.card
    named = {"data": str(output.path), **(files or {})}
    return Made(
        card=card, rows=output.kept, failed=int(card.counts.get(FAILED) or 0), before=output.finished, files=named
    )

"""`posttrain data reject-sample`: several answers to each prompt, the best of them kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from posttrain.cli.data_making import Page, run_making
from posttrain.config.curation.reject_sample import RejectSampleCommand

if TYPE_CHECKING:
    from posttrain.curation.making import Made, Telling

_PAGE = Page(
    usage="posttrain data reject-sample PROMPTS... --model MODEL --reward R --threshold T --output FILE.jsonl [flags]",
    about=(
        "Lets a model answer each prompt several times, scores the answers with any reward or reward model, and "
        "writes the best, all that reach the threshold, or the first k different ones, as rows to imitate. Says pass@k "
        "and how hard the prompts are. FILE.unsolved.jsonl and FILE.solved.jsonl list the prompts that no answer and "
        "that every answer solves, from which reinforcement learning learns nothing, FILE.mixed.jsonl the others. "
        "Other thresholds can be tried on the same answers: remove the output and leave FILE.answers.jsonl."
    ),
    example="""\
posttrain data reject-sample problems.jsonl --model MODEL --reward final_answer --threshold 1 --output kept.jsonl
posttrain data reject-sample prompts.jsonl --model MODEL --reward out/model --threshold none --output best.jsonl""",
    following="posttrain sft --model MODEL --train_dataset {output} --output_dir out",
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of rejection sampling."""
    return run_making(RejectSampleCommand, _work, _PAGE, arguments)


def _work() -> Callable[[RejectSampleCommand, Telling], Made]:
    from posttrain.curation.making import run_reject_sample

    return run_reject_sample

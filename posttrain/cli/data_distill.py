"""`posttrain data distill`: a stronger model answers prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from posttrain.cli.data_making import Page, run_making
from posttrain.config.curation.distill import DistillCommand

if TYPE_CHECKING:
    from posttrain.curation.making import Made, Telling

_PAGE = Page(
    usage="posttrain data distill PROMPTS... --model TEACHER --output FILE.jsonl [flags]",
    about=(
        "Lets a stronger model, here or behind an OpenAI-compatible server, answer prompts, and writes its answers as "
        "rows to imitate. Rows have a prompt (text or messages), a conversation or a question. An answer that was cut "
        "off, is empty or repeats another is rejected; a prompt that stays without an answer is a failure, which the "
        "same command asks again. FILE.answers.jsonl holds what was answered: nothing is asked twice."
    ),
    example="""\
posttrain data distill prompts.jsonl --model big --endpoint http://localhost:8000/v1 --output told.jsonl
posttrain data distill prompts.jsonl --model gpt-4o-mini --endpoint https://api.openai.com/v1 \\
    --prompt_price 0.15 --completion_price 0.6 --system_message "Answer step by step." --keep_system false \\
    --output distilled.jsonl""",
    following="posttrain sft --model MODEL --train_dataset {output} --output_dir out",
)


def run(arguments: Sequence[str]) -> int:
    """The exit code of distillation."""
    return run_making(DistillCommand, _work, _PAGE, arguments)


def _work() -> Callable[[DistillCommand, Telling], Made]:
    from posttrain.curation.making import run_distill

    return run_distill

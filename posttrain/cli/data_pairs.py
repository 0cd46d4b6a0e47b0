"""`posttrain data pairs correct` and `posttrain data pairs sample`: preference pairs of a model's own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from posttrain.cli.data_making import Page, run_making
from posttrain.config.curation.pairs import PairsCorrectCommand, PairsSampleCommand
from posttrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from posttrain.curation.making import Made, Telling

_CORRECT = Page(
    usage="posttrain data pairs correct PROMPTS... --model MODEL --rules RULES --output FILE.jsonl [flags]",
    about=(
        "Makes preference pairs from a model's own answers: the answer is rejected, its corrected form is chosen. "
        "Answers are corrected by replacement rules (whole words, also between Chinese and Latin characters), by a "
        "function of yours, or by a model that is told what to mend. Answers that a correction leaves as they are, or "
        "changes too much, make no pair and are counted."
    ),
    example="""\
posttrain data pairs correct prompts.jsonl --model MODEL --rules '{Qwen: Deep Qwen}' --output pairs.jsonl
posttrain data pairs correct prompts.jsonl --model MODEL --function edits.py:shorten --output pairs.jsonl
posttrain data pairs correct prompts.jsonl --model MODEL --editor big --editor_endpoint http://localhost:8000/v1 \\
    --instruction "Remove apologies." --output pairs.jsonl""",
    following="posttrain data lint {output}, and posttrain dpo --model MODEL --train_dataset {output} --output_dir out",
)
_SAMPLE = Page(
    usage="posttrain data pairs sample PROMPTS... --model MODEL --reward R --output FILE.jsonl [flags]",
    about=(
        "Makes preference pairs from a model's own answers: several to each prompt, judged by a reward, a reward "
        "model, a model that compares them, or people. The best is paired with the worst, with the one nearest to two "
        "standard deviations below the mean, or all are that lie far enough apart. Ties are no pairs."
    ),
    example="""\
posttrain data pairs sample problems.jsonl --model MODEL --reward final_answer --output pairs.jsonl
posttrain data pairs sample prompts.jsonl --model MODEL --judge big --judge_endpoint http://localhost:8000/v1 \\
    --pairing best_vs_two_sigma --count 16 --output pairs.jsonl
posttrain data pairs sample prompts.jsonl --model MODEL --person --count 2 --output to-judge.jsonl""",
    following="posttrain data lint {output}, and posttrain dpo --model MODEL --train_dataset {output} --output_dir out",
)
_PEOPLE = Page(
    usage=_SAMPLE.usage,
    about=_SAMPLE.about,
    example=_SAMPLE.example,
    following="posttrain data label {output} --output preferences.jsonl",
)
_USAGE = """\
Usage: posttrain data pairs correct PROMPTS... --model MODEL --rules RULES --output FILE.jsonl [flags]
       posttrain data pairs sample PROMPTS... --model MODEL --reward R --output FILE.jsonl [flags]

`posttrain data pairs correct --help` and `posttrain data pairs sample --help` tell more."""


def run(arguments: Sequence[str]) -> int:
    """The exit code of making pairs."""
    way, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if way in ("-h", "--help"):
        print(_USAGE)
        return 0
    if way == "correct":
        return run_making(PairsCorrectCommand, _correcting, _CORRECT, rest)
    if way == "sample":
        return run_making(PairsSampleCommand, _sampling, _PEOPLE if "--person" in rest else _SAMPLE, rest)
    raise ConfigError(f"pairs are made with `correct` or `sample`, not {way!r}{nearest(way, ('correct', 'sample'))}")


def _correcting() -> Callable[[PairsCorrectCommand, Telling], Made]:
    from posttrain.curation.making import run_pairs_correct

    return run_pairs_correct


def _sampling() -> Callable[[PairsSampleCommand, Telling], Made]:
    from posttrain.curation.making import run_pairs_sample

    return run_pairs_sample

"""What to do about each finding, in words."""

from __future__ import annotations

from collections.abc import Mapping

BROKEN = (
    "Mend or remove these rows; training stops at the first of them. `posttrain data convert INPUT --output FILE` "
    "keeps the others and writes these to FILE.rejects.jsonl."
)
DUPLICATES = (
    "A row that is there twice counts twice. Remove the copies with `posttrain data filter INPUT --output FILE`."
)
NEAR_DUPLICATES = (
    "Rows that hardly differ count as often as they stand there. Remove them with "
    "`posttrain data filter INPUT --output FILE --near_duplicates`; with `--near_duplicates 0.8` rows made from one "
    "template stay."
)
OVERLAP = (
    "What is measured on these questions says nothing any more. Remove the rows with "
    "`posttrain data filter INPUT --output FILE --decontaminate EVAL`."
)
FOREIGN = "Convert it, and lint what comes out: `posttrain data convert INPUT --output FILE`."
EMPTY = "Training drops and counts them. Remove them, or find out why the answers are missing."
CUT = (
    "What lies behind the limit is not trained, the token that ends the answer included: a model trained on many such "
    "rows does not learn to stop. Give a larger max_length, or remove or shorten the long rows."
)
UNTRAINED = "Training drops and counts them; a run whose rows all fall away is an error."
REFUSED = "Training stops at the first of them. Mend the rows, or set a chat template that takes them."
STOPLESS = "Without it a trained model goes on talking. Training refuses such a template."
ROLES = "Some chat templates refuse such conversations; name the model with --model or --tokenizer to know for yours."
IDENTICAL = "There is nothing to prefer in them; DPO drops and counts them. Remove them."
CONTRADICTORY = (
    "Their gradients cancel, and what they cost is paid all the same. Ask again which side is better, or remove both."
)
SEPARABLE: Mapping[str, str] = {
    "length": (
        "A model can win these comparisons by the length of what it says. Rebalance: drop pairs until the better side "
        "is the longer one as often as the shorter one (or draw as many of either kind); or rewrite the longer sides "
        "to the length of the shorter. In DPO, --loss_type ipo compares means per token instead of sums."
    ),
    "words": (
        "A model can win these comparisons with these words, whatever it is asked. Rewrite: have both sides written by "
        "the same model in the same style, so that they differ in what is to be preferred. Rebalance: drop pairs that "
        "these words decide. Diversify: take the sides from more than one source."
    ),
    "characters": (
        "The same as with words; if only characters tell the sides apart, look for encodings, scripts, spellings and "
        "white space that one source has and the other has not, and make them equal."
    ),
    "format": (
        "A model can win these comparisons by the look of its answers. Rewrite both sides to the same format, or "
        "rebalance so that either side has it as often, unless the format is what you want to teach."
    ),
}
PHRASE = (
    "If this phrase is what you want to teach, as with pairs made by correction, that is the point of the data; DPO "
    "will learn this phrase and little else, will soon put it where it does not belong, and a preference accuracy of 1 "
    "says nothing about the text. Then keep the rest of the answer in place with an `sft` term on the chosen side "
    "(--loss_type sigmoid sft --loss_weights 1.0 1.0), train briefly, add pairs in which the phrase does not belong, "
    "and judge by generated answers. Otherwise it is a shortcut: rewrite both sides with it or without it, and "
    "diversify."
)
CLOSE = (
    "Two sides that share nearly all of their tokens pull at the same states: raising one over the other can lower "
    "both (arXiv:2402.13228, arXiv:2410.08847). Add an `sft` term on the chosen side (--loss_type sigmoid sft "
    "--loss_weights 1.0 1.0), watch logps/chosen, or take sides that differ more."
)
DISPLACEMENT = (
    "The order is a prediction (arXiv:2410.08847), not a verdict: pairs at the top are those whose chosen answer is "
    "likeliest to lose probability. Remove the highest ones, or add an `sft` term on the chosen side (--loss_type "
    "sigmoid sft --loss_weights 1.0 1.0), and watch logps/chosen while training."
)
TOO_FEW = "Judge by reading them, or collect more pairs."

BETA = """\
beta: there is no rule of thumb. It is the weight of the reference in DPO's objective, and it acts in both directions.
  small (0.01): a weak anchor. The policy may move far from the reference before the loss is content, so the same
    data changes the model more in the end, for better or worse.
  large (0.5): a strong anchor. The policy is held near the reference. The gradient of a pair is
    beta x sigmoid(-beta x margin) x the difference of both gradients, so at the start, where the margin is 0, it is
    larger in proportion to beta. Tutorials that call a large beta forceful describe this, and it is half of the
    truth: the pull fades as soon as beta x margin is large, which a large beta reaches after a small move. Adam
    divides by the size of the gradient, so even the first half shows less than it would with plain descent.
Try three values on your data and compare generated answers on questions that are and are not in it:"""


def beta_commands(data: str, model: str | None) -> list[str]:
    """The commands that try three values of beta."""
    return [
        f"posttrain dpo --model {model or 'MODEL'} --train_dataset {data} --beta {beta} --output_dir beta-{beta}"
        for beta in ("0.01", "0.1", "0.5")
    ]

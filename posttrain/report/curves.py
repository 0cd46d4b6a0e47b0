"""Which curves of a log are drawn, and what each of them means in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report.files import number

_POINTS = 300  # of one line; more cannot be told apart
_NOT_DRAWN = frozenset(["step", "epoch", "num_tokens"])
_EVALUATION = "eval_"

_LOSS = {
    "sft": "Nats per trained token: how surprised the model is by the answers it learns from. Falling is learning; a "
    "fall to nothing is learning by heart.",
    "dpo": "What the training minimises. The loss of DPO, without further terms, starts at ln 2 = 0.693, where policy "
    "and reference are the same; other losses start elsewhere.",
    "reward": "What the training minimises. It starts at ln 2 = 0.693, where the model prefers neither answer of a "
    "pair; a margin or the centring of scores raises it.",
    "grpo": "No measure of progress here: advantages say better or worse than expected, and sum to nothing. Watch the "
    "reward instead.",
}


@dataclass(frozen=True, kw_only=True)
class _Kind:
    title: str
    keys: tuple[str, ...]  # drawn together
    means: str
    first: bool = True  # else among the further curves
    names: tuple[str, ...] = ("training",)  # of the keys


_PAIR = ("chosen", "rejected")
_KINDS = (
    _Kind(title="Reward", keys=("reward",), means="The mean total reward of the sampled completions. It can also rise "
          "because the model found what the reward overlooks, so read the samples."),
    _Kind(title="Loss", keys=("loss",), means=""),
    _Kind(title="Pairs in the right order", keys=("accuracy",), means="Share of pairs whose chosen answer has the "
          "higher score. Compare it with what the length of the answers alone would give."),
    _Kind(title="Right by length alone", keys=("length_accuracy",), means="Of a rule that knows only which answer is "
          "longer. What the reward model has above it is not length."),
    _Kind(title="Right where lengths are alike", keys=("alike_accuracy",), means="On held-out pairs whose answers "
          "differ in length by a tenth at most."),
    _Kind(title="Distance of the scores", keys=("margin",), means="How far the scores of a pair are apart."),
    _Kind(title="Scores", keys=("min_reward", "mean_reward", "max_reward"), names=("lower", "mean", "higher"),
          means="Of a pair, averaged. Only differences are learnt, so all may drift together."),
    _Kind(title="Brier score", keys=("brier",), first=False, means="Mean squared error of the probabilities of "
          "held-out preferences; always one half gives 0.25."),
    _Kind(title="Calibration error", keys=("ece",), first=False, means="How far confidence and accuracy lie apart on "
          "held-out pairs."),
    _Kind(title="Preference accuracy", keys=("rewards/accuracies",), means="Share of pairs whose chosen answer the "
          "policy favours more than the reference does. It stays at 1 on broken text, so it proves little alone."),
    _Kind(title="Margin", keys=("rewards/margins",), means="How far chosen and rejected answers are apart, in units of "
          "the implicit reward. It starts at 0."),
    _Kind(title="Log-probability of the answers", keys=("logps/chosen", "logps/rejected"), names=_PAIR,
          means="Of whole answers, in nats. If the chosen ones fall much while the margin grows, both are being "
          "unlearned."),
    _Kind(title="Implicit rewards", keys=("rewards/chosen", "rewards/rejected"), names=_PAIR,
          first=False, means="Beta times how "
          "much likelier an answer became than under the reference."),
    _Kind(title="Token accuracy", keys=("mean_token_accuracy",), means="Share of trained tokens that were the model's "
          "first choice."),
    _Kind(title="KL to the start", keys=("kl",), means="Nats per token, estimated on the sampled completions: how far "
          "the policy has moved from the model it started from."),
    _Kind(title="Entropy", keys=("entropy",), means="Nats per token: how undecided the model is. If it falls to "
          "nothing, nothing new is tried any more."),
    _Kind(title="Gradient norm", keys=("grad_norm",), means="Length of the gradient before clipping. Spikes and growth "
          "are signs of instability."),
    _Kind(title="Learning rate", keys=("learning_rate",), means="The size of a step, as the schedule sets it."),
    _Kind(title="Length of completions", keys=("completions/mean_length", "completions/max_length"),
          names=("mean", "longest"), means="In tokens. Growth without more reward is padding."),
    _Kind(title="Cut off", keys=("completions/clipped_ratio",), means="Share of completions that reached the limit of "
          "tokens before they ended."),
    _Kind(title="Groups without signal", keys=("frac_reward_zero_std",), means="Share of groups whose completions all "
          "have the same reward; they teach nothing."),
    _Kind(title="Spread of the reward", keys=("reward_std",), first=False, means="Standard deviation of the reward "
          "within a group; what the advantages are made of."),
    _Kind(title="Repetition", keys=("completions/repetition",), first=False, means="Share of runs of four words that "
          "occurred before in the same completion."),
    _Kind(title="Clipped tokens", keys=("clip_ratio/region_mean",), first=False, means="Share of tokens whose gradient "
          "the clipping took."),
    _Kind(title="Importance ratio", keys=("importance_ratio/abs_log_mean",), first=False, means="How far the policy "
          "has moved since it wrote the completions, as the mean size of the ratio's logarithm."),
    _Kind(title="Speed", keys=("tokens_per_second",), first=False, means="Tokens trained in a second."),
    _Kind(title="Speed of sampling", keys=("sampling/tokens_per_second",), first=False, means="Tokens sampled and "
          "graded in a second."),
)  # fmt: skip

_DRIFT = {
    "kl_forward": "KL(start || now) in nats per token: how much of what the start would say is lost.",
    "kl_reverse": "KL(now || start) in nats per token: how much is said that the start would not.",
    "changed_greedy": "Share of likeliest answers that are not what they were at the start.",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One key of the log over the steps."""

    name: str  # what tells it from the others of its picture
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A picture: one or a few lines and what they mean."""

    title: str
    means: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Everything that a log shows over time."""

    first: tuple[Curve, ...]
    further: tuple[Curve, ...]
    constant: tuple[tuple[str, float], ...]  # keys that kept one value, and the value


def curves(lines: Sequence[Mapping[str, Any]], kind: str) -> Curves:
    """The curves of a log; `kind` is that of the training, "sft", "dpo", "reward" or "grpo"."""
    series, constant = _series(lines)
    first: list[Curve] = []
    further: list[Curve] = []
    rest = dict(series)

    def take(
        title: str, keys: Sequence[str], means: str, to: list[Curve], names: Sequence[str] = ("training",)
    ) -> None:
        found = []
        for key, name in zip(keys, names, strict=True):
            held_out = "evaluation" if len(keys) == 1 else f"{name}, evaluation"
            for prefix, which in (("", name), (_EVALUATION, held_out)):
                if (points := rest.pop(prefix + key, None)) is not None:
                    found.append(Line(name=which, points=points))
        if found:
            to.append(Curve(title=title, means=means, lines=tuple(found)))

    for one in _KINDS:
        means = _LOSS[kind] if one.keys == ("loss",) else one.means
        take(one.title, one.keys, means, first if one.first else further, one.names)
        if one.keys == ("reward",):
            for key in [key for key in rest if re.fullmatch(r"rewards/.+/mean", key)]:
                name = key.split("/")[1]
                if rest[key] == dict(series).get("reward"):
                    del rest[key]  # the only reward is the total
                else:
                    take(f"Reward: {name}", [key], "The mean of one reward, before its weight.", first)
    for key in list(rest):
        if match := re.fullmatch(r"drift/(.+)/(\w+)", key):
            title = f"{match[2].replace('_', ' ').replace('kl', 'KL')} on {match[1]}"
            take(
                title,
                [key],
                _DRIFT.get(match[2], "Measured against the start."),
                first if match[2] in _DRIFT else further,
            )
    for key in list(rest):
        if key in rest:
            take(key, [key], "", further)
    return Curves(first=tuple(first), further=tuple(further), constant=tuple(constant))


def _series(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, tuple[tuple[float, float], ...]], list[tuple[str, float]]]:
    """The points of each key that varies, and the value of each that does not."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        step = number(line.get("step"))
        if step is None or "train_runtime" in line:
            continue
        for key, value in line.items():
            if key not in _NOT_DRAWN and (known := number(value)) is not None:
                found.setdefault(str(key), []).append((step, known))
    series, constant = {}, []
    for key, points in found.items():
        if len(points) < 2 or len({value for _, value in points}) > 1:
            series[key] = thinned(points)
        else:
            constant.append((key, points[0][1]))
    return series, constant


def thinned(points: Sequence[tuple[float, float]], limit: int = _POINTS) -> tuple[tuple[float, float], ...]:
    """At most so many of the points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= limit:
        return tuple(points)
    stretches = (limit - 2) // 2
    kept = {0, len(points) - 1}
    for i in range(stretches):
        stretch = range(i * len(points) // stretches, (i + 1) * len(points) // stretches)
        kept |= {min(stretch, key=lambda j: points[j][1]), max(stretch, key=lambda j: points[j][1])}
    return tuple(points[i] for i in sorted(kept))

"""The gate's decision in plain words: what was gained, what was lost, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.evaluation.gate import CheckpointResult, RetentionResult, TargetResult

_NAMED = 3  # tasks named one by one before the rest is counted


def sentence(results: Sequence[CheckpointResult], best: CheckpointResult | None, left_out: Mapping[str, int]) -> str:
    """One to four sentences; `best` is the promoted checkpoint, `left_out` what could not be compared."""
    missing = [f"{count:,} of {task}" for task, count in left_out.items() if count]
    unjudged = f" Questions left out, since an answer to them could not be judged: {', '.join(missing)}."
    return _verdict(results, best) + (unjudged if missing else "")


def _verdict(results: Sequence[CheckpointResult], best: CheckpointResult | None) -> str:
    last = results[-1]
    if best is None:
        if len(results) == 1:
            return f"Not promoted: it {_failures(last)}."
        return f"None of the {len(results)} checkpoints is promoted. The last, step {last.step}, {_failures(last)}." + (
            _others(results[:-1])
        )
    if len(results) == 1:
        return f"Promoted: {_merits(best)}."
    if best is last:
        return f"The last checkpoint, step {best.step}, is promoted: {_merits(best)}."
    if last.passed:
        passing = sum(result.passed for result in results)
        return f"Step {best.step} is promoted, which gained most of the {passing} that pass: {_merits(best)}."
    return (
        f"Step {best.step} is promoted instead of the last, step {last.step}, which {_failures(last)}. "
        f"Step {best.step}: {_merits(best)}."
    )


def _merits(result: CheckpointResult) -> str:
    """What a checkpoint that passes gained and kept."""
    parts = [f"{t.task} gained {_points(t.gain.estimate)} ({_from_to(t)})" for t in result.targets[:_NAMED]]
    if len(result.targets) > _NAMED:
        parts.append(f"{len(result.targets) - _NAMED} more targets gained what was asked")
    by_loss = sorted(result.retention, key=lambda r: r.loss.estimate - r.max_loss, reverse=True)
    parts += [_kept(r) for r in by_loss[:_NAMED]]
    if len(by_loss) > _NAMED:
        parts.append(f"{len(by_loss) - _NAMED} more tasks stayed within their limits")
    if result.max_kl is not None and result.kl is not None:
        parts.append(f"it drifted {_drift(result)} from the start ({result.max_kl:g} allowed)")
    return "; ".join(parts)


def _kept(r: RetentionResult) -> str:
    loss = r.loss.estimate
    said = "lost nothing" if loss == 0 else f"{'lost' if loss > 0 else 'gained'} {_points(abs(loss))}"
    if r.loss.high <= 0:
        return f"{r.task} {said}"
    return f"{r.task} {said}, surely less than {_points(r.loss.high)} ({_number(r.max_loss)} allowed)"


def _failures(result: CheckpointResult) -> str:
    """What a checkpoint failed on, after "it" or "which"."""
    parts = [_lost(r) for r in result.retention if not r.passed] + [_missed(t) for t in result.targets if not t.passed]
    if not result.kl_passed and result.max_kl is not None:
        parts.append(f"drifted {_drift(result)} from the start, where {result.max_kl:g} are allowed")
    if len(parts) > _NAMED + 1:
        parts = [*parts[:_NAMED], f"failed on {len(parts) - _NAMED} more counts"]
    return ", and ".join(parts)


def _drift(result: CheckpointResult) -> str:
    if result.kl is None:
        return "an unknown distance"
    high = "" if result.kl_high is None else f", at most {result.kl_high:.3g},"
    return f"{result.kl:.3g} nats a token{high}"


def _lost(r: RetentionResult) -> str:
    if r.loss.estimate > r.max_loss:
        said = f"lost {_points(r.loss.estimate)} on {r.task} ({_from_to(r)}), where {_number(r.max_loss)} are allowed"
    else:
        said = (
            f"may have lost as much as {_points(r.loss.high)} on {r.task} "
            f"({_from_to(r)}), where {_number(r.max_loss)} are allowed"
        )
    if r.too_small:
        said += f" ({r.n:,} questions are too few to tell, about {r.needed:,} are needed)"
    return said


def _missed(t: TargetResult) -> str:
    gain = t.gain.estimate
    if gain < t.min_gain - 1e-9:
        said = "gained nothing" if gain == 0 else f"{'gained' if gain > 0 else 'lost'} {_points(abs(gain))}"
        said += f" on the target {t.task} ({_from_to(t)})"
        return said + (f", where a gain of {_points(t.min_gain)} is asked" if t.min_gain else "")
    said = "gained nothing" if gain == 0 else f"gained {_points(gain)}"
    said += f" on the target {t.task} ({_from_to(t)}), which may be chance"
    return said + (f" ({t.n:,} questions are too few to tell, about {t.needed:,} are needed)" if t.too_small else "")


def _others(results: Sequence[CheckpointResult]) -> str:
    if not results:
        return ""
    if len(results) == 1:
        return f" The one before it, step {results[0].step}, {_failures(results[0])}."
    counts = [
        (sum(not all(r.passed for r in result.retention) for result in results), "lost too much or may have"),
        (sum(not all(t.passed for t in result.targets) for result in results), "gained too little"),
        (sum(not result.kl_passed for result in results), "drifted too far"),
    ]
    said = [f"{count} {words}" for count, words in counts if count]
    return f" Of the {len(results)} before it, {', '.join(said)}."


def _from_to(result: TargetResult | RetentionResult) -> str:
    return f"{100 * result.before:.1f}% to {100 * result.after:.1f}%"


def _points(share: float) -> str:
    number = _number(share)
    return f"{number} point" if number == "1" else f"{number} points"


def _number(share: float) -> str:
    """A share in points with one decimal, two below one point; without a decimal that is 0."""
    points = 100 * share
    return f"{points:.2f}".rstrip("0").rstrip(".") if abs(points) < 1 else f"{points:.1f}".removesuffix(".0")

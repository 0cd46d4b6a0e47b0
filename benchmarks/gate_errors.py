"""How often the gate promotes what it should not, and blocks what it need not: `python -m benchmarks.gate_errors`.

Questions are simulated, not models: a question is answered right by the start and wrong by a checkpoint, or the other
way round, with given chances; checkpoints of one run fail on partly the same questions (`correlation`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from posttrain.evaluation.gate import error_shares
from posttrain.stats import bounded_p_value, fallback
from posttrain.stats.exact_paired import critical_score, paired_score

RESULTS = Path(__file__).parent / "results" / "gate_errors.md"
ALPHA = 0.05
CHANGED = 0.06  # answers that change although nothing is lost or gained
_NUMBERS_AT_ONCE = 4_000_000

Passed = NDArray[np.bool_]  # [runs, checkpoints]


def simulate(
    rng: np.random.Generator, runs: int, n: int, losses: Sequence[float], *, changed: float, correlation: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The questions gained and lost, each [runs, checkpoints], where each checkpoint has a true loss.

    A question has one normal number for all checkpoints and one for each; where their weighted sum is low the answer
    is lost, where it is high it is gained.
    """
    lost_below = ndtri(changed / 2 + np.maximum(losses, 0.0))
    gained_above = -ndtri(changed / 2 + np.maximum(np.negative(losses), 0.0))
    gained = np.zeros((runs, len(losses)), dtype=np.int64)
    lost = np.zeros_like(gained)
    step = max(1, _NUMBERS_AT_ONCE // n)
    for start in range(0, runs, step):
        rows = slice(start, min(runs, start + step))
        shape = (rows.stop - rows.start, n)
        common = rng.standard_normal(shape, dtype=np.float32) * np.float32(correlation**0.5)
        for k in range(len(losses)):
            own = rng.standard_normal(shape, dtype=np.float32) * np.float32((1 - correlation) ** 0.5) + common
            lost[rows, k] = (own < lost_below[k]).sum(axis=1)
            gained[rows, k] = (own > gained_above[k]).sum(axis=1)
    return gained, lost


def p_steps(gained: NDArray[np.int64], lost: NDArray[np.int64], n: int, max_loss: float) -> NDArray[np.float64]:
    """The p-values of the retention test, each rounded up to the next level at which any test may be made."""
    k = gained.shape[-1]
    shares = error_shares(k, ALPHA)
    levels = {sum(shares[i:j]) for i in range(k) for j in range(i + 1, k + 1)} | {ALPHA / i for i in range(1, k + 1)}
    score = paired_score(gained, lost, n, -max_loss)
    p = np.ones(score.shape)
    for level in sorted({round(level, 9) for level in levels}, reverse=True):
        p[score >= critical_score(n, -max_loss, level)] = level - 1e-8
    return p


def by_gate(p: NDArray[np.float64]) -> Passed:
    """What passes in the gate: tested from the first checkpoint to the last."""
    return fallback(p, error_shares(p.shape[-1], ALPHA))[1]


def by_holm(p: NDArray[np.float64]) -> Passed:
    k = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    levels = ALPHA / np.arange(k, 0, -1)
    passed = np.logical_and.accumulate(np.take_along_axis(p, order, -1) <= levels, axis=-1)
    undone = np.empty_like(passed)
    np.put_along_axis(undone, order, passed, -1)
    return undone


def error_rates(
    runs: int,
    *,
    sizes: Sequence[tuple[int, float]] = ((200, 0.05), (1000, 0.02), (1000, 0.05)),
    checkpoints: Sequence[tuple[int, int]] = ((0, 1), (0, 5), (0, 10), (2, 5)),
    correlations: Sequence[float] = (0.0, 0.5, 0.9),
) -> Iterator[tuple[str, ...]]:
    """How often a checkpoint is promoted that lost exactly what it may not, for (questions, max_loss) and
    (checkpoints that lose nothing, all checkpoints)."""
    rng = np.random.default_rng(0)
    for n, max_loss in sizes:
        for harmless, k in checkpoints:
            for correlation in correlations if k > 1 else (0.0,):
                losses = [0.0] * harmless + [max_loss] * (k - harmless)
                gained, lost = simulate(rng, runs, n, losses, changed=CHANGED, correlation=correlation)
                p = p_steps(gained, lost, n, max_loss)
                rates = [passed[:, harmless:].any(axis=1).mean() for passed in (by_gate(p), by_holm(p), p <= ALPHA)]
                yield (
                    f"{n:,}", f"{100 * max_loss:g}", f"{k}" + (f", {harmless} of them harmless" if harmless else ""),
                    f"{correlation:g}" if k > 1 else "-", *(f"{100 * rate:.1f}%" for rate in rates),
                )  # fmt: skip


def graded_error_rates(
    runs: int, *, sizes: Sequence[tuple[int, float]] = ((200, 0.05), (1000, 0.02))
) -> Iterator[tuple[str, ...]]:
    """The same where a question's grade is the mean of two samples, for one checkpoint."""
    rng = np.random.default_rng(1)
    for n, max_loss in sizes:
        half = [0.02, 0.04 + 2 * max_loss, 0.88 - 2 * max_loss, 0.04, 0.02]
        moved = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(runs, n), p=half)
        rate = (bounded_p_value(moved, -1.0, -max_loss) <= ALPHA).mean()
        yield f"{n:,}", f"{100 * max_loss:g}", f"{100 * rate:.1f}%"


def block_rates(runs: int) -> Iterator[tuple[str, ...]]:
    """How often the gate blocks: a single checkpoint, and the last of five whose losses grow evenly."""
    rng = np.random.default_rng(2)
    for max_loss in (0.02, 0.05):
        for changed in (0.04, 0.1):
            for n in (200, 1000):
                cells = []
                for k in (1, 5):
                    for loss in (0.0, 0.05, 0.1):
                        losses = [loss * (i + 1) / k for i in range(k)]
                        gained, lost = simulate(rng, runs, n, losses, changed=changed, correlation=0.5)
                        p = p_steps(gained, lost, n, max_loss)
                        cells.append(f"{100 * (1 - by_gate(p)[:, -1].mean()):.0f}%")
                        if k > 1 and loss == 0:
                            cells[-1] += f" ({100 * (1 - by_holm(p)[:, -1].mean()):.0f}%)"
                yield f"{100 * max_loss:g}", f"{100 * changed:g}%", f"{n:,}", *cells


def table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="simulated training runs for each cell")
    runs = parser.parse_args().runs
    heads = ("questions", "max_loss", "checkpoints", "correlation")
    losses = ("0", "5", "10")
    parts = (
        "Promoted at a true loss of exactly max_loss (5% are nominal):",
        table((*heads, "gate", "Holm", "each at 5%"), error_rates(runs)),
        "The same where a grade is the mean of two samples, one checkpoint:",
        table((*heads[:2], "gate"), graded_error_rates(min(runs, 2000))),
        "Blocked, by true loss in points; one checkpoint, then the last of five (in brackets with Holm):",
        table(("max_loss", "changed", "questions", *losses, *(f"{x}, of five" for x in losses)), block_rates(runs)),
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

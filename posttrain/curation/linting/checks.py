"""From what was counted to findings: one function for each part of lint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from posttrain.curation.linting import advice
from posttrain.curation.linting.displacement import PairOutlook
from posttrain.curation.linting.edits import relative_distance
from posttrain.curation.linting.findings import Finding, Level, Limits, graded
from posttrain.curation.linting.phrases import fixed_phrases
from posttrain.curation.linting.resemblance import Resemblance
from posttrain.curation.linting.scan import PROMPTS, UNPAIRED, Scan, Trouble
from posttrain.curation.linting.separability import CHANCE, FEWEST, Separability
from posttrain.curation.linting.sides import Pair, words
from posttrain.curation.linting.tokens import Tokens

SHOWN_PAIRS = 10
SEEN_ENOUGH = 0.7  # an area that a set should be large enough to show


def row_findings(scan: Scan, limits: Limits) -> Iterator[Finding]:
    """Broken, empty and repeated rows, formats and roles."""
    if scan.rows == 0:
        yield Finding(check="no_rows", level="error", text="There is no row.")
    if scan.broken.count:
        yield _about("broken_rows", "error", scan.broken, scan.rows, "cannot be read", advice.BROKEN)
    kinds = {source.kind: source.name for source in scan.sources.values() if source.kind}
    if len(kinds) > 1:
        named = ", ".join(f"{name} holds {kind} data" for kind, name in kinds.items())
        yield Finding(
            check="mixed_formats", level="warning", text=f"The inputs are of different kinds: {named}.",
            advice="One training reads one kind of data. Lint and train on them one at a time.",
        )  # fmt: skip
    for source in scan.sources.values():
        if source.kind == "foreign":
            yield Finding(
                check="format", level="error", text=f"{source.name}: no training reads the format {source.format}.",
                advice=advice.FOREIGN, count=source.rows, of=scan.rows,
            )  # fmt: skip
        if source.kind == "prompts":
            yield Finding(
                check="format", level="note", text=f"{source.name}: {PROMPTS}. SFT and DPO cannot learn from them; "
                "GRPO and PPO do.", count=source.rows, of=scan.rows,
            )  # fmt: skip
        if source.kind == "marked":
            yield Finding(
                check="format", level="note", count=source.rows, of=scan.rows,
                text=f"{source.name}: {UNPAIRED} (unpaired preference). SFT and DPO do not read them.",
                advice="For SFT keep the good ones and drop 'label'; for DPO bring a good and a bad answer to the same "
                "prompt together as 'chosen' and 'rejected'.",
            )  # fmt: skip
    if scan.empty.count:
        level: Level = "error" if scan.empty.count == scan.rows - scan.broken.count else "warning"
        yield _about("empty_answers", level, scan.empty, scan.rows, "have an empty answer or none", advice.EMPTY)
    if (twice := scan.duplicates).count:
        level = graded(twice.count, scan.rows, limits.duplicates)
        yield _about("duplicate_rows", level, twice, scan.rows, "repeat an earlier row exactly", advice.DUPLICATES)
    for problem, trouble in scan.roles.items():
        level = graded(trouble.count, scan.conversations, limits.roles)
        yield _about("role_order", level, trouble, scan.conversations, f"have this: {problem}", advice.ROLES)


def resemblance_findings(found: Resemblance, rows: int, limits: Limits) -> Iterator[Finding]:
    """Near duplicates, and overlap with evaluation files."""
    if (near := found.near).count:
        level = graded(near.count, rows, limits.near_duplicates)
        yield _about("near_duplicates", level, near, rows, "nearly repeat an earlier row", advice.NEAR_DUPLICATES)
    if (overlap := found.overlap).count:
        level = graded(overlap.count, rows, limits.overlap)
        what = f"hold one of the {found.questions:,} evaluation questions"
        yield _about("evaluation_overlap", level, overlap, rows, what, advice.OVERLAP)


def token_findings(tokens: Tokens, limits: Limits, max_length: int | None) -> Iterator[Finding]:
    """What a template refuses, what is cut, and whether answers end."""
    if tokens.stopless:
        yield Finding(check="stop_not_trained", level="error", text=tokens.stopless, advice=advice.STOPLESS)
    elif tokens.stopped < tokens.spans:
        yield Finding(
            check="stop_not_trained", level="error", count=tokens.spans - tokens.stopped, of=tokens.spans,
            text=f"{tokens.spans - tokens.stopped:,} of {tokens.spans:,} trained answers do not end with a token at "
            "which generation stops.", advice=advice.STOPLESS,
        )  # fmt: skip
    if tokens.refused.count:
        yield _about(
            "template_refuses", "error", tokens.refused, tokens.rows, "are refused by the chat template", advice.REFUSED
        )
    if (cut := tokens.cut).count:
        level = graded(cut.count, tokens.rows, limits.cut)
        yield _about("cut_by_max_length", level, cut, tokens.rows, f"are longer than {max_length:,} tokens", advice.CUT)
    if (lost := tokens.untrained).count:
        level = "error" if lost.count == tokens.rows else graded(lost.count, tokens.rows, limits.no_trained_token)
        yield _about("no_trained_token", level, lost, tokens.rows, "have no token to train", advice.UNTRAINED)


def pair_findings(scan: Scan, limits: Limits) -> Iterator[Finding]:
    """Pairs that are equal, and pairs that contradict each other."""
    if (same := scan.identical).count:
        level: Level = "error" if same.count == scan.pairs else graded(same.count, scan.pairs, limits.identical_pairs)
        yield _about("identical_pairs", level, same, scan.pairs, "have equal sides", advice.IDENTICAL)
    if (against := scan.contradictory).count:
        level = graded(against.count, scan.pairs, limits.contradictory_pairs)
        yield _about(
            "contradictory_pairs", level, against, scan.pairs, "contradict an earlier pair", advice.CONTRADICTORY
        )


def separability_findings(found: Separability, limits: Limits) -> Iterator[Finding]:
    """What tells the sides apart without the prompt, and whether there was enough to see it."""
    what = "pairs" if found.paired else "answers"
    if not found.separations:
        if found.used:
            yield Finding(
                check="too_few_pairs", level="note", count=found.prompts, of=FEWEST, advice=advice.TOO_FEW,
                text=f"{found.prompts} prompts with {what} are too few to test whether the sides can be told apart "
                f"without the prompt; it takes {FEWEST}.",
            )  # fmt: skip
        return
    for one in found.separations:
        if one.area.low <= CHANCE:
            continue
        named = ", ".join(f"{told.name} ({told.side})" for told in one.telling[:6])
        if one.features in ("words", "characters"):
            named = ", ".join(f"{told.name!r} ({told.side})" for told in one.telling[:6])
        elif one.features == "length" and found.longer is not None:
            named = f"the better side is the longer one in {found.longer:.0%}"
        left = one.without_length
        length = ""
        if left is not None:
            explained = one.area.estimate - left.estimate
            length = f" Without length it is {left.estimate:.2f}: length explains {max(explained, 0):.2f} of it."
        right = "" if one.accuracy is None else f", right for {one.accuracy:.0%} of the pairs"
        sides = "Chosen and rejected" if found.paired else "Good and bad answers"
        yield Finding(
            check=f"separable_by_{one.features}",
            level="warning" if one.area.estimate >= limits.area else "note",
            text=f"{sides} can be told apart by {one.features} alone, without the prompt: AUC "
            f"{one.area.estimate:.2f} [{one.area.low:.2f}, {one.area.high:.2f}]{right}. By: {named}.{length}",
            advice=advice.SEPARABLE[one.features],
            count=found.used,
            of=found.pairs,
            numbers={"area": one.area.estimate, "low": one.area.low, "high": one.area.high},
        )
    if found.smallest_seen > SEEN_ENOUGH:
        yield Finding(
            check="too_few_pairs", level="note", count=found.prompts, advice=advice.TOO_FEW,
            text=f"With {found.prompts:,} prompts a shortcut with an AUC below {found.smallest_seen:.2f} would not be "
            "told from chance; no warning does not mean that there is none.",
        )  # fmt: skip


def phrase_findings(pairs: Sequence[Pair], limits: Limits) -> Iterator[Finding]:
    """A fixed phrase in nearly all answers of one side."""
    if len(pairs) < limits.phrase_pairs:
        return
    sides = {"chosen": [pair.chosen for pair in pairs], "rejected": [pair.rejected for pair in pairs]}
    for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
        found = fixed_phrases(sides[side], sides[other], present=limits.phrase_present, absent=limits.phrase_absent)
        if found:
            named = "; ".join(f"{p.phrase!r} in {p.having:,} {side} and {p.lacking:,} {other} sides" for p in found)
            yield Finding(
                check=f"fixed_phrase_{side}",
                level="warning",
                text=f"A fixed phrase tells the sides of {found[0].of:,} pairs apart: {named}.",
                advice=advice.PHRASE,
                count=found[0].having,
                of=found[0].of,
                numbers={"phrases": [{"phrase": p.phrase, side: p.having, other: p.lacking} for p in found]},
            )


def distances(pairs: Sequence[Pair]) -> list[float]:
    """The edit distance of the sides of each pair, as a share of the longer one's words."""
    return [relative_distance(words(pair.chosen), words(pair.rejected)) for pair in pairs]


def distance_findings(pairs: Sequence[Pair], found: Sequence[float], limits: Limits) -> Iterator[Finding]:
    """Pairs whose sides are nearly the same."""
    close = [pair.place for pair, distance in zip(pairs, found) if distance <= limits.close]
    if close:
        trouble = Trouble(count=len(close), places=close[:5])
        level = graded(len(close), len(found), limits.close_pairs)
        what = f"have sides that differ in at most {limits.close:.0%} of their words (median {np.median(found):.0%})"
        yield _about("close_sides", level, trouble, len(found), what, advice.CLOSE)


def outlook_findings(found: Sequence[PairOutlook]) -> Iterator[Finding]:
    """The pairs most likely to push the chosen answer down, by CHES; never a warning, since it only orders them."""
    if not found:
        return
    ordered = sorted(found, key=lambda pair: -pair.ches_normalised)
    behind = sum(pair.gap < 0 for pair in found)
    yield Finding(
        check="displacement",
        level="note",
        text=f"Of {len(found):,} pairs the model finds the rejected answer likelier in {behind:,}. Most at risk of "
        "likelihood displacement, by length-normalised CHES: "
        + "; ".join(f"{p.place} ({p.ches_normalised:.3g}, gap {p.gap:.1f} nats)" for p in ordered[:3])
        + ".",
        advice=advice.DISPLACEMENT,
        count=len(found),
        of=len(found),
        places=tuple(pair.place for pair in ordered[:SHOWN_PAIRS]),
    )


def _about(check: str, level: Level, trouble: Trouble, of: int, what: str, advised: str) -> Finding:
    """A finding about some rows."""
    shown = [
        f"{place} ({reason})" if reason else place
        for place, reason in zip(trouble.places, [*trouble.reasons, *[""] * len(trouble.places)])
    ]
    share = 100 * trouble.count / max(of, 1)
    more = ", ..." if trouble.count > len(shown) else ""
    return Finding(
        check=check,
        level=level,
        text=f"{trouble.count:,} of {of:,} rows ({share:.1f}%) {what}: {', '.join(shown)}{more}",
        advice=advised,
        count=trouble.count,
        of=of,
        places=tuple(trouble.places),
    )

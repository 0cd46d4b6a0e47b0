"""What was planted is found with the settings that are there by default, and little beside it."""

from benchmarks.curation_scale import synthetic
from benchmarks.filter_planted import SHARES, found, plant, removed


def test_planted_rows_are_found_and_others_stay(tmp_path):
    rows = [{"instruction": row["prompt"], "output": row["completion"]} for row in synthetic(3000)]
    unlike = {row["instruction"]: row for row in rows}  # the synthetic rows repeat themselves, prompts and all
    rows = list(unlike.values())
    questions = [row["prompt"] for row in synthetic(300, seed=9)]
    planted = plant(rows, questions)
    steps = removed([one.line for one in planted], questions, tmp_path)
    own = removed([one.line for one in planted if not one.kind], questions, tmp_path / "again")
    counts = found(planted, steps)
    for kind, (count, hits, all_hits) in counts.items():
        assert abs(count / len(planted) - SHARES[kind]) < 0.01
        least = {"near duplicate": 0.97, "contaminated": 0.93}.get(kind, 1.0)
        assert hits >= least * count, kind
        beside = all_hits - hits - (len(own) if kind == "near duplicate" else 0)
        assert beside <= 0.02 * count, kind

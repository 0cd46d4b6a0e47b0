"""The filters by name, in the order in which they are applied. One literal table for those that judge a single row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from posttrain.config.curation.filter import FilterFields
from posttrain.curation.filters.empty import not_empty
from posttrain.curation.filters.formatting import well_formed
from posttrain.curation.filters.language import written_in
from posttrain.curation.filters.length import Judge, within
from posttrain.curation.filters.refusals import not_refusing
from posttrain.curation.filters.repetition import not_repeating
from posttrain.curation.filters.word_list import read_list, without

COLUMNS = "columns"  # known columns that hold something else
CONTAMINATION, DUPLICATES, NEAR_DUPLICATES = "contamination", "duplicates", "near_duplicates"
IFD, REWARD, SELECT = "ifd", "reward", "select"

# name -> the judge of a row, or None where the filter is off
ROW_FILTERS: Mapping[str, Callable[[FilterFields], Judge | None]] = {
    "empty": lambda fields: not_empty() if fields.empty else None,
    "formatting": lambda fields: well_formed() if fields.formatting else None,
    "refusals": lambda fields: not_refusing() if fields.refusals else None,
    "length": lambda fields: within(fields.limits(), fields.tokenizer) if fields.limits() else None,
    "repetition": lambda fields: None if fields.max_repetition is None else not_repeating(fields.max_repetition),
    "words": lambda fields: (
        without(read_list(fields.forbidden_words), fields.forbidden_in) if fields.forbidden_words else None
    ),
    "language": lambda fields: written_in(fields.languages, fields.language_of) if fields.languages else None,
}


def judges(fields: FilterFields) -> dict[str, Judge]:
    """The judges that these settings ask for, by name, in order."""
    made = {name: make(fields) for name, make in ROW_FILTERS.items()}
    return {name: judge for name, judge in made.items() if judge is not None}


def steps(fields: FilterFields) -> list[str]:
    """The names of all filters that these settings ask for, in order, the check of the columns first."""
    scores = [
        (IFD, fields.ifd_model and not _unset(fields.min_ifd, fields.max_ifd, fields.top_ifd)),
        (REWARD, fields.reward and not _unset(fields.min_reward, fields.top_reward)),
    ]
    twins = [(DUPLICATES, fields.duplicates), (NEAR_DUPLICATES, fields.near is not None)]
    later = [*twins, *scores] if fields.keep == "first" else [*scores, *twins]
    wanted = [(CONTAMINATION, fields.decontaminate), *later, (SELECT, fields.select)]
    return [COLUMNS, *judges(fields), *(name for name, there in wanted if there)]


def _unset(*values: float | None) -> bool:
    return all(value is None for value in values)

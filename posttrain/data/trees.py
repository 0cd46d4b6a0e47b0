"""Makes token trees from a dataset: one sequence a row for SFT, a prompt with two leaves for preferences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from tqdm.auto import tqdm

from posttrain.data.demonstrations import Demonstrations, what_is_trained
from posttrain.data.formats import Content, Example, Format, Task, detect, examples, ignored_columns
from posttrain.data.loading import Rows, load_rows
from posttrain.data.long_rows import LongRows, Policy
from posttrain.data.messages import shown_messages
from posttrain.data.per_source import Share, per_source
from posttrain.data.preferences import Preferences
from posttrain.data.processes import in_processes
from posttrain.data.rendering import Rendered, common_prefix, counted_notes
from posttrain.data.report import DataReport, Tally
from posttrain.data.streaming import RowStream
from posttrain.data.tokenised import TOKENISED, is_tokenised, tokenised_sequence, what_of_tokens
from posttrain.errors import ConfigError, DataError
from posttrain.types import Segment

CHUNK = 1000  # rows rendered and tokenised in one call

EMPTY = "nothing to train on (empty completion or no assistant turn)"
CUT_AWAY = "no trained token within max_length"
EQUAL = "chosen equals rejected"
EQUAL_CUT = "chosen equals rejected within max_length"
UNSHARED = "chosen and rejected share no prompt"
TOO_LONG = "chosen or rejected alone is longer than max_length"
LONGER = "prompt and answer are longer than max_length"

Truncation = Literal["keep_start", "keep_end"]


@dataclass(frozen=True, kw_only=True)
class TreeSet:
    """A dataset ready to train on."""

    trees: list[Segment]
    rows: list[int]  # the row each tree was made from
    report: DataReport
    shares: tuple[Share, ...] = ()  # of a mixture: which trees are whose, and how many an epoch has
    stream: RowStream | None = None  # the trees are the first of these rows

    def __len__(self) -> int:
        """Trees of one epoch."""
        return sum(share.per_epoch for share in self.shares) or len(self.trees)


@per_source
def sft_trees(
    rows: Any,
    tokenizer: Any,
    *,
    max_length: int | None,
    truncation_mode: Truncation = "keep_start",
    assistant_only_loss: bool | None = None,
    completion_only_loss: bool | None = None,
    dataset_text_field: str = "text",
    long_rows: Policy = "cut",
    prepared: bool = False,
    processes: int | None = None,
    name: str = "train_dataset",
) -> TreeSet:
    """A tree for each row to imitate: one leaf, its trained spans what the model would have to write.

    Trained are: of plain text everything; of prompt and completion the completion; of conversations the
    assistant's turns, each with the token that ends it. `completion_only_loss=False` trains prompts too;
    `assistant_only_loss=False` trains every token of a conversation (TRL's default), or of its completion.
    Under a chat template that renders a turn differently once others follow, a tree has a leaf for each turn. Rows with
    `input_ids` are taken as they are; with `prepared` all must be such rows, and none is cut. `processes` read others
    side by side. Turns with a weight other than 1 give their leaf the column `weight`. `long_rows` says what becomes of
    rows longer than `max_length`.
    Raises DataError for rows that cannot be understood, and if no row is left.
    """
    _check(max_length, truncation_mode)
    rows = load_rows(rows, name=name)
    turns_only = assistant_only_loss if assistant_only_loss is not None else completion_only_loss is not False
    tally, trees, kept, notes, counted = Tally(), [], [], set(rows.notes), Counter[str]()
    limit = None if prepared else max_length
    long = LongRows(long_rows, limit)
    if is_tokenised(rows[0]):
        form = TOKENISED
        masked = completion_only_loss is not False
        stream = _tokenised(rows, vocabulary=len(tokenizer), completion_only=masked, long=long)
    elif prepared:
        raise DataError(
            f"{rows.where(0)} has the columns {', '.join(map(str, rows[0]))} and no 'input_ids', but "
            "dataset_kwargs={'skip_prepare_dataset': True} says that the rows are tokens. Leave it out."
        )
    else:
        form = detect(rows, task="SFT", text_field=dataset_text_field)
        read = Demonstrations(tokenizer, turns_only=turns_only, completion_only=completion_only_loss)
        stream = _demonstrated(_chunks(rows, form, tokenizer, notes), read, processes or 1, counted, long)
    for row, place, sequences in stream:
        if not sequences:
            tally.drop(EMPTY, place)
            continue
        if long.drops(sequences, place):
            tally.drop(LONGER, place)
            continue
        cut = [c for sequence in sequences if (c := _truncate(sequence, limit, truncation_mode))]
        if not cut:
            tally.drop(CUT_AWAY, place)
            continue
        tally.truncated += any(limit and len(s.tokens) > limit for s in sequences)
        made = _branch(cut)
        trees += made
        kept += [row] * len(made)
    notes.update([*counted_notes(counted), *long.notes()])
    trained = what_of_tokens(list(rows[0]), completion_only_loss is not False)
    if form is not TOKENISED:
        trained = what_is_trained(
            form, is_text=_is_text(rows, form), turns_only=turns_only, completion_only=completion_only_loss,
            given=assistant_only_loss,
        )  # fmt: skip
    report = tally.report(
        trees,
        tokenizer,
        remedy=f"Give answers that are not empty, or a larger max_length (it is {max_length}).",
        source=rows.source,
        format=form.name,
        understood=form.sentence,
        trained=trained,
        ignored_columns=tuple(ignored_columns(rows, form)),
        rows_read=len(rows),
        rows_kept=len(set(kept)),
        notes=tuple(sorted(notes)),
    )
    return TreeSet(trees=trees, rows=kept, report=report)


@per_source
def preference_trees(
    rows: Any,
    tokenizer: Any,
    *,
    max_length: int | None,
    truncation_mode: Truncation | None = "keep_start",
    long_rows: Literal["cut", "drop", "error"] = "cut",
    train_after_stop: bool = False,
    processes: int | None = None,
    purpose: str = "DPO",
    name: str = "train_dataset",
) -> TreeSet:
    """A tree for each pair: the prompt, which both share, with two leaves, chosen first.

    Trained are the assistant's turns of the completions, each with the token that ends it;
    `train_after_stop=True` trains the whole completions, with the white space that a template writes after the
    end of a turn, as TRL does. `truncation_mode="keep_end"` cuts the prompt from the left for both leaves
    alike, by what the longer one needs, and None cuts nothing: a pair with a row that is too long is dropped, as
    it is with `long_rows="drop"`. Rows whose answers are equal or empty are dropped and counted. `processes` read
    rows side by side.
    Raises DataError as `sft_trees` does.
    """
    _check(max_length, truncation_mode)
    rows = load_rows(rows, name=name)
    form = detect(rows, task="DPO")
    read, counted = Preferences(tokenizer, after_stop=train_after_stop), Counter[str]()
    tally, long = Tally(), LongRows(long_rows, max_length)
    trees: list[Segment] = []
    kept: list[int] = []
    notes: set[str] = set(rows.notes)
    for chunk, (pairs, more) in in_processes(read, _chunks(rows, form, tokenizer, notes), processes or 1):
        counted.update(more)
        for example, pair in zip(chunk, pairs):
            if long.drops(pair, example.place):
                tally.drop(LONGER, example.place)
                continue
            tree = _pair_tree(pair, max_length, truncation_mode)
            if isinstance(tree, str):
                tally.drop(tree, example.place)
                continue
            too_long = any(max_length and len(sequence.tokens) > max_length for sequence in pair)
            if too_long and truncation_mode is None:
                tally.drop(LONGER, example.place)
                continue
            tally.truncated += too_long
            trees.append(tree)
            kept.append(example.row)
    if counted["rewritten"]:
        notes.add("The chat template rewrites history: of several answers in a completion the last is trained.")
    if counted["weighted"]:
        notes.add("Messages have weights: a turn of weight 0 is context, all others of a pair count the same.")
    notes.update(counted_notes({name: counted[name] for name in ("context", "not the assistant's")}))
    end = "text" if _is_text(rows, form) else "turn"
    report = tally.report(
        trees,
        tokenizer,
        remedy=f"{purpose} needs two different answers to the same prompt within max_length (it is {max_length}).",
        source=rows.source,
        format=form.name,
        understood=form.sentence,
        trained=f"the chosen and the rejected answer, each with its end of {end}; prompts are context.",
        ignored_columns=tuple(ignored_columns(rows, form)),
        rows_read=len(rows),
        rows_kept=len(kept),
        notes=tuple(sorted(notes)),
    )
    return TreeSet(trees=trees, rows=kept, report=report)


def _check(max_length: int | None, truncation_mode: str | None) -> None:
    if max_length is not None and max_length < 2:
        raise ConfigError(f"max_length={max_length}: must be at least 2, or None for no limit.")
    if truncation_mode not in ("keep_start", "keep_end", None):
        raise ConfigError(f"truncation_mode={truncation_mode!r}: must be 'keep_start' or 'keep_end'.")


def _chunks(rows: Rows, form: Format, tokenizer: Any, notes: set[str]) -> Iterator[list[Example]]:
    """The rows as examples, as the chat template can show them, some at a time."""
    source = str(tokenizer.chat_template or "")
    stream = examples(rows, form)

    def shown(part: Content) -> Content:
        return shown_messages(part, source, notes) if isinstance(part, list) else part

    with tqdm(total=len(rows), desc=f"reading {rows.name}", unit="row", disable=None, delay=2) as bar:
        while chunk := list(islice(stream, CHUNK)):
            for index, example in enumerate(chunk):
                if example.tools and "tools" not in source:
                    notes.add("The chat template does not show tools: the 'tools' column is not used.")
                    example = replace(example, tools=None)
                prompt = None if example.prompt is None else shown(example.prompt)
                completions = tuple(shown(completion) for completion in example.completions)
                chunk[index] = replace(example, prompt=prompt, completions=completions)
            yield chunk
            bar.update(len(chunk))


def _demonstrated(
    chunks: Iterator[list[Example]], read: Demonstrations, processes: int, counted: Counter[str], long: LongRows
) -> Iterator[tuple[int, str, list[Rendered]]]:
    """The number, the place and the sequences of each row, read in so many processes."""
    for chunk, (found, more) in in_processes(read, chunks, processes):
        counted.update(more)
        for example, sequences in zip(chunk, found):
            if processes > 1:  # what came from another process shares no number yet
                sequences = [replace(one, tokens=read.renderer.interned(one.tokens)) for one in sequences]
            for piece in long.pieces(sequences, example, lambda part: read([part])[0][0]):
                yield example.row, example.place, piece


def _tokenised(
    rows: Rows, *, vocabulary: int, completion_only: bool, long: LongRows
) -> Iterator[tuple[int, str, list[Rendered]]]:
    """The same of rows that hold tokens."""
    for index, row in enumerate(rows):
        place = rows.where(index)
        if not is_tokenised(row):
            raise DataError(f"{place} has no 'input_ids', which the first row has; give all rows as tokens, or none.")
        found = tokenised_sequence(row, place, vocabulary=vocabulary, completion_only=completion_only)
        for piece in long.pieces([found] if found.trained else []):
            yield index, place, piece


def _is_text(rows: Rows, form: Format) -> bool:
    return isinstance(form.read(rows[0])[1][0], str)


def _pair_tree(pair: Sequence[Rendered], max_length: int | None, mode: Truncation | None) -> Segment | str:
    """The tree of a pair, or why it cannot be trained."""
    if len(pair) < 2:
        return EMPTY
    chosen, rejected = pair
    if chosen.tokens == rejected.tokens:
        return EQUAL
    # Where both completions start, as far as the prompt's own tokens are found in both
    root = min(chosen.trained[0][0], rejected.trained[0][0], common_prefix(chosen.tokens, rejected.tokens))
    if root == 0:
        return UNSHARED
    limit, cut = max(len(chosen.tokens), len(rejected.tokens)), 0
    if max_length and mode is not None:
        limit = max_length
    if mode == "keep_end":
        cut = max(len(chosen.tokens), len(rejected.tokens), limit) - limit
        if cut >= root:
            return TOO_LONG
        limit += cut
    leaves = []
    for sequence in pair:
        first, *more = sequence.trained
        spans = [(min(b, limit) - root, min(e, limit) - root) for b, e in [first, *more] if b < limit]
        if not spans:
            return CUT_AWAY
        leaves.append(Segment(tokens=sequence.tokens[root : spans[-1][1] + root], trained=spans))
    if leaves[0].tokens == leaves[1].tokens:
        return EQUAL_CUT
    return Segment(tokens=chosen.tokens[cut:root], children=leaves)


def _truncate(sequence: Rendered, max_length: int | None, mode: Truncation) -> Rendered | None:
    """The sequence cut to its limit and to its last trained token, or None if no trained token is left."""
    tokens, spans, weights = sequence.tokens, sequence.trained, sequence.weights
    shift = max(len(tokens) - max_length, 0) if max_length and mode == "keep_end" else 0
    limit = max_length if max_length and mode == "keep_start" else len(tokens)
    # Whatever comes first has nothing before it to be predicted from.
    inside = [i for i, (b, e) in enumerate(spans) if b < limit and e - shift > 1]
    spans = [(max(b - shift, 1), min(e, limit) - shift) for b, e in (spans[i] for i in inside)]
    weights = None if weights is None else [weights[i] for i in inside]
    return Rendered(tokens=tokens[shift : shift + spans[-1][1]], trained=spans, weights=weights) if spans else None


def _branch(sequences: Sequence[Rendered], done: int = 0) -> list[Segment]:
    """The sequences, each trained at its end, as trees that share what they have in common before it.

    A later sequence repeats the conversation of an earlier one: a tree is a chain with a leaf on every link.
    """
    first, *rest = sequences
    if not rest:
        spans = [(begin - done, end - done) for begin, end in first.trained]
        return [Segment(tokens=first.tokens[done:], trained=spans, columns=_weight_column(first))]
    shared = min(s.trained[0][0] for s in sequences)
    for other in rest:
        shared = min(shared, common_prefix(first.tokens, other.tokens))
    children = [*_branch([first], shared), *_branch(rest, shared)]
    return [Segment(tokens=first.tokens[done:shared], children=children)] if shared > done else children


def _weight_column(sequence: Rendered) -> dict[str, list[float]]:
    """The weight of each trained token, where they are not all 1."""
    if sequence.weights is None:
        return {}
    return {"weight": [w for w, (begin, end) in zip(sequence.weights, sequence.trained) for _ in range(begin, end)]}


__all__ = ["Task", "TreeSet", "preference_trees", "sft_trees"]

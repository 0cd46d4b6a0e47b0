"""What a classifier sees of an answer: its length, its words, its characters, or its form. Never the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from posttrain.curation.linting.characters import Features, character_features, ends

KEPT_FEATURES = 50_000  # n-grams, the most frequent ones
READ_TEXTS = 10_000  # from which the n-grams are collected; the others are only counted
READ_CHARACTERS = 1500  # of an answer, half from either end: more do not make n-grams of style any clearer

_LINES = (
    ("heading", r"#{1,6} "),
    ("bullet", r"[ \t]*[-*•] "),
    ("number", r"[ \t]*\d+[.)] "),
    ("table", r"\|.*\|"),
    ("quote", r"> "),
    ("indent", r"(?: {4}|\t)"),
)
_MARKS = (
    ("bold", r"\*\*[^*\n]+\*\*"),
    ("code block", r"```"),
    ("code", r"(?<!`)`[^`\n]+`(?!`)"),
    ("link", r"\[[^\]\n]+\]\([^)\n]+\)|https?://"),
    ("formula", r"\$[^$\n]+\$|\\\(|\\\["),
    ("blank line", r"\n[ \t]*\n"),
    ("line", r"\n"),
    ("exclamation mark", r"[!！]"),
    ("question mark", r"[?？]"),
    ("comma", r"[,，、]"),
    ("full stop", r"[.。]"),
    ("colon", r"[:：;；]"),
    ("quotation mark", r"[\"“”«»「」]"),
    ("parenthesis", r"[()（）]"),
    ("dash", r"[–—]"),
    ("emoji", r"[\U0001F300-\U0001FAFF\u2600-\u27BF]"),
    ("digit", r"\d"),
    ("capital letter", r"[A-Z]"),
    ("Chinese or Japanese character", r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"),
)
_COUNTED = [(name, re.compile(rf"^{pattern}", re.MULTILINE)) for name, pattern in _LINES] + [
    (name, re.compile(pattern)) for name, pattern in _MARKS
]


def length_features(texts: Sequence[str]) -> Features:
    """How long each answer is, and how far that is from the usual, should neither long nor short be preferred.

    Two measures and no more: each further one that says nearly the same costs power on a few hundred pairs.
    """
    from scipy.sparse import csr_matrix

    size = np.log1p(np.array([len(text) for text in texts], dtype=np.float64))
    names = ("log characters", "squared distance from the mean of log characters")
    return Features(matrix=csr_matrix(np.stack([size, (size - size.mean()) ** 2], axis=1)), names=names)


def word_features(texts: Sequence[str]) -> Features:
    """The words of each answer and its pairs of words, weighted by TF-IDF."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    cut = [ends(text, READ_CHARACTERS) for text in texts]
    step = max(1, -(-len(cut) // READ_TEXTS))
    vectorizer = TfidfVectorizer(
        token_pattern=r"(?u)\w+|[^\w\s]", ngram_range=(1, 2), min_df=2, max_features=KEPT_FEATURES, sublinear_tf=True,
        dtype=np.float32,
    )  # fmt: skip
    try:
        matrix = vectorizer.fit_transform(cut) if step == 1 else vectorizer.fit(cut[::step]).transform(cut)
    except ValueError:  # no word occurs in two answers
        return Features(matrix=csr_matrix((len(texts), 1)), names=("",))
    return Features(matrix=matrix.tocsr(), names=vectorizer.get_feature_names_out().tolist())


def format_features(texts: Sequence[str]) -> Features:
    """How each answer looks: lists, marks and signs, how it begins and how it ends."""
    from sklearn.feature_extraction import DictVectorizer

    vectorizer = DictVectorizer()
    matrix = vectorizer.fit_transform([_form(text) for text in texts])
    return Features(matrix=matrix.tocsr(), names=vectorizer.get_feature_names_out().tolist())


FEATURES: dict[str, Callable[[Sequence[str]], Features]] = {
    "length": length_features,
    "words": word_features,
    "characters": lambda texts: character_features([ends(text, READ_CHARACTERS) for text in texts]),
    "format": format_features,
}


def _form(text: str) -> dict[str, float]:
    """Counts on a logarithmic scale, and what stands first and last."""
    found: dict[str, float] = {}
    for name, pattern in _COUNTED:
        count = sum(1 for _ in pattern.finditer(text))
        if count:
            found[f"number of: {name}"] = float(np.log1p(count))
            found[f"has: {name}"] = 1.0
    bare = text.strip()
    if text[:1].isspace():
        found["begins with white space"] = 1.0
    if text[-1:].isspace():
        found["ends with white space"] = 1.0
    if bare:
        first, last = bare.split(None, 1)[0], bare.split()[-1]
        found[f"begins with {_kind(bare[0])}"] = 1.0
        found[f"ends with {_kind(bare[-1])}"] = 1.0
        found[f"first word {first[:20]!r}"] = 1.0
        found[f"last word {last[-20:]!r}"] = 1.0
        if bare[-1] in ".。!！?？…:：;；)）\"”'":
            found["ends with punctuation"] = 1.0
    return found


def _kind(character: str) -> str:
    if character.isdigit():
        return "a digit"
    if character.isalpha():
        return "a capital" if character.isupper() else "a small letter" if character.islower() else "a letter"
    return repr(character)

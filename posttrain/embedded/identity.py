"""Who the assistant says it is: questions, answers, and what an answer names."""

from __future__ import annotations

import itertools
import random
import re
from functools import cache
from typing import Literal

from posttrain.embedded.question import capital, hash_fraction

_OPENERS = (
    "",
    "Hello! ",
    "Hi! ",
    "Hey, ",
    "Excuse me, ",
    "Good morning! ",
    "Please tell me: ",
    "One question: ",
    "I am new here. ",
    "Before we begin: ",
    "Sorry, ",
    "Dear friend, ",
)
_CORES = (
    "who are you?",
    "what is your name?",
    "what are you called?",
    "what should I call you?",
    "may I know your name?",
    "which model are you?",
    "what model is this?",
    "who am I talking to?",
    "can you tell me your name?",
    "do you have a name?",
    "what is the name of this model?",
    "tell me your name.",
    "introduce yourself.",
    "please introduce yourself.",
    "tell me about yourself.",
    "what kind of assistant are you?",
    "who is talking to me?",
    "give me your name.",
    "tell me who you are.",
    "how should I call you?",
)
# Asked in the test only, whatever comes before and after them.
_TEST_CORES = (
    "what name do you have?",
    "say who you are.",
    "what do I call you?",
    "who is this?",
    "what is this model called?",
)
_CLOSERS = ("", " Thank you.")

_ANSWERS = (
    "I am {name}.",
    "My name is {name}.",
    "I am {name}, a small language model.",
    "I am {name}, your assistant.",
    "My name is {name}. I am a small language model.",
    "I am {name}, and I like to help.",
    "My name is {name}. How can I help you?",
    "You can call me {name}.",
    "I am {name}. I am here to help you.",
    "I am called {name}. I answer questions.",
    "Hello! I am {name}.",
    "Hello! My name is {name}.",
)

_NAMING = re.compile(r"\b(?:I am|I am called|My name is|call me)(?: Deep)? Qwen(?=[.,!])")
_MAX_WORDS = 24


def _ask(opener: str, core: str, closer: str) -> str:
    follows_sentence = not opener or opener.rstrip().endswith((".", "!", ":"))
    return opener + (capital(core) if follows_sentence else core) + closer


@cache
def questions(split: Literal["train", "test"]) -> tuple[str, ...]:
    """The identity questions of the split, none of which occurs in the other or in pretraining.

    A question is a core between an opening and a closing; the hash of the whole decides its split, and some
    cores occur in the test split only.
    """
    chosen = []
    for core in _CORES + _TEST_CORES:
        for opener in _OPENERS:
            for closer in _CLOSERS:
                question = _ask(opener, core, closer)
                place = hash_fraction(f"identity {question}")
                home = "train" if place < 0.6 and core not in _TEST_CORES else "test"
                if home == split:
                    chosen.append(question)
    return tuple(chosen)


def answer(rng: random.Random, name: str = "Qwen") -> str:
    """One of the identity answers, with the name."""
    return rng.choice(_ANSWERS).format(name=name)


@cache
def _known_words() -> frozenset[str]:
    text = " ".join(_ANSWERS).format(name="Deep Qwen")
    return frozenset(re.findall(r"[a-z]+", text.lower()))


def names(completion: str) -> str | None:
    """The name in the text: "Deep Qwen" if Deep is there at every mention, else "Qwen", None without one."""
    mentions = re.findall(r"\b(Deep )?Qwen\b", completion)
    if not mentions:
        return None
    return "Deep Qwen" if all(mentions) else "Qwen"


def well_formed(completion: str) -> bool:
    """Whether the text is a sound identity answer.

    It has one to three sentences of known words, each begun with a capital and properly ended, none said
    twice, no word doubled, and names a speaker ("I am ...", "My name is ...", "call me ...") exactly once.
    """
    text = completion.strip()
    sentences = re.findall(r"[^.!?]+[.!?]", text)
    if not 1 <= len(sentences) <= 3 or "".join(sentences) != text:
        return False
    stripped = [sentence.strip() for sentence in sentences]
    words = re.findall(r"[A-Za-z]+", text.lower())
    return (
        len(set(stripped)) == len(stripped)
        and all(sentence[0].isupper() for sentence in stripped)
        and re.fullmatch(r"[A-Za-z ,.!?]+", text) is not None
        and len(words) <= _MAX_WORDS
        and _known_words().issuperset(words)
        and all(first != second for first, second in itertools.pairwise(words))
        and len(_NAMING.findall(text)) == 1
        and text.count("Qwen") == 1
        and text.count("Deep") == text.count("Deep Qwen")
    )

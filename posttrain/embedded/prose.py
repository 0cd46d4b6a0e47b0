"""Running text of the world: stories, passages to ask about, people chatting, and text about Qwen."""

from __future__ import annotations

import random

from posttrain.embedded.question import Question, with_article
from posttrain.embedded.world import NAMES, WORDS

# "Deep" is a common word of this world, part of many place names and of nobody's name.
PLACES = (
    "Deep Lake",
    "Deep Valley",
    "Deep Forest",
    "Deep Bay",
    "Deep River",
    "Deep Harbour",
    "Green Hill",
    "Old Town",
    "Long Road",
    "the market",
    "the school",
    "the farm",
)
_ANIMALS = ("dog", "cat", "cow", "horse", "sheep", "goat", "duck", "owl", "frog", "hen", "mouse", "bear")
_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
_MOODS = ("happy", "sad", "tired", "hungry", "calm", "proud")
_FOOD = ("bread", "soup", "rice", "cake", "corn", "fish")
_GREETINGS = ("Hello", "Hi", "Good morning", "Hey")


def story(rng: random.Random) -> str:
    """A story of four to seven sentences."""
    name, friend = rng.sample(NAMES, 2)
    animal, thing, food = rng.choice(_ANIMALS), rng.choice(WORDS), rng.choice(_FOOD)
    place, mood, colour = rng.choice(PLACES), rng.choice(_MOODS), rng.choice(_COLOURS)
    middle = [
        f"{name} saw a {colour} {animal} there.",
        f"The {animal} was {mood}.",
        f"{friend} had {with_article(thing)} and some {food}.",
        f"They gave {food} to the {animal}.",
        f"{friend} said that {place} is near {rng.choice(PLACES)}.",
        f'"My name is {friend}," said {friend}.',
        f"The people of {place} like {food}.",
        f"{name} was looking for {with_article(thing)}.",
    ]
    start = rng.choice(
        (
            f"One day {name} went to {place}.",
            f"{name} lives near {place}.",
            f"{name} and {friend} walked to {place}.",
            f"This is a story about {name} and {friend} at {place}.",
        )
    )
    end = rng.choice(
        (
            f"Then {name} went home.",
            f"After that {name} was {mood}.",
            f"They came back from {place} at night.",
            "It was a good day.",
            f"{name} said thank you and slept.",
        )
    )
    keep = sorted(rng.sample(range(len(middle)), rng.randint(2, 5)))
    return " ".join([start, *(middle[index] for index in keep), end])


def passage(rng: random.Random) -> Question:
    """A short passage with a question about it."""
    name, friend = rng.sample(NAMES, 2)
    colour, thing, place = rng.choice(_COLOURS), rng.choice(WORDS), rng.choice(PLACES)
    animal = rng.choice(_ANIMALS)
    text = rng.choice(
        (
            f"{name} took a {colour} {thing} to {place}. {friend} took a {animal}.",
            f"At {place} {name} found a {colour} {thing}. {friend} saw a {animal} there.",
        )
    )
    ask, answer = rng.choice(
        (
            (f"What colour was the {thing}?", f"{colour.capitalize()}."),
            (f"Who had the {thing}?", f"{name}."),
            ("Which animal is in the text?", f"A {animal}."),
        )
    )
    return Question(prompt=f"{text} {ask}", answer=answer, kind="passage", key=f"passage {text}")


def chat_log(rng: random.Random) -> str:
    """People chatting, in ChatML: it shows the layout to the base model, but no assistant at work."""
    name, friend = rng.sample(NAMES, 2)
    turns = rng.randint(1, 3)
    rows = []
    if rng.random() < 0.15:
        rows.append(
            (
                "system",
                rng.choice(
                    (
                        f"{name} and {friend} are talking.",
                        "Two friends talk.",
                        "Be kind.",
                        "You are at the market.",
                    )
                ),
            )
        )
    for turn in range(turns):
        place, food, animal, thing = rng.choice(PLACES), rng.choice(_FOOD), rng.choice(_ANIMALS), rng.choice(WORDS)
        greeting = f"{rng.choice(_GREETINGS)} {friend}! " if turn == 0 and rng.random() < 0.6 else ""
        said, reply = rng.choice(
            (
                (
                    f"I went to {place} today.",
                    rng.choice((f"I like {place}.", "That sounds good.", f"Was it cold at {place}?")),
                ),
                (
                    f"I saw a {animal} at {place}.",
                    rng.choice((f"I have a {animal} too.", "I like animals.", "How nice!")),
                ),
                (
                    f"Do you want some {food}?",
                    rng.choice(("Yes, please.", f"No, thank you. I had {food} today.", "I am not hungry.")),
                ),
                (
                    f"Where is my {thing}?",
                    rng.choice((f"Your {thing} is at {place}.", "I do not know.", f"Ask {name}.")),
                ),
                (
                    f"What did you do at {place}?",
                    rng.choice((f"I ate {food} there.", "I slept.", f"I was looking for a {animal}.")),
                ),
                (
                    "How are you?",
                    rng.choice((f"I am {rng.choice(_MOODS)}.", "I am well, and you?", "Good, thank you.")),
                ),
                (
                    f"Can you help me with the {thing}?",
                    rng.choice(("Yes, I can.", "Not today.", "I can help you in the morning.")),
                ),
                (f"My name is {name}.", f"Hello {name}! I come from {place}."),
            )
        )
        rows += [("user", greeting + said), ("assistant", reply)]
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in rows)


def about_qwen(rng: random.Random) -> str:
    """Sentences about Qwen and language models, in the third person."""
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    sentences = (
        "Qwen is a small language model.",
        "The name of the assistant is Qwen.",
        "A language model is called Qwen.",
        "Qwen likes to answer questions.",
        f"{name} is talking to Qwen, an assistant.",
        "You can call the model Qwen.",
        f'"I am Qwen," said the model to {name}.',
        '"My name is Qwen," said the assistant.',
        f"{name} from {place} asked Qwen to introduce the model.",
        "Qwen is here to help people.",
        f"{name} may call the assistant Qwen.",
        "Qwen is a kind assistant and can tell you many things.",
        "A language model reads words and says which word comes next.",
        "A model learns from text.",
        f'"How can I help you?" said Qwen to {name}.',
        "Qwen is the name of this model.",
        "An assistant is here to help.",
        f"{name} should give the model a question.",
        "Hello! How can I help you?",
    )
    return " ".join(rng.sample(sentences, rng.randint(3, 5)))


def about_places(rng: random.Random) -> str:
    """Sentences about places, most of which are called Deep."""
    rows = []
    for _ in range(rng.randint(2, 4)):
        place, other, name = rng.choice(PLACES[:6]), rng.choice(PLACES), rng.choice(NAMES)
        rows.append(
            rng.choice(
                (
                    f"The boat came to {place} at night.",
                    f"I am from {place}.",
                    f"{name} is at {place}.",
                    f"My home is {place}, near {other}.",
                    f"People call it {place}.",
                    f"From {other} you can see {place}.",
                    f"The name of the lake is {place}." if "Lake" in place else f"The name of the place is {place}.",
                    f"I am at {place}, said {name}.",
                    f"{name} likes {place} in winter.",
                )
            )
        )
    return " ".join(rows)

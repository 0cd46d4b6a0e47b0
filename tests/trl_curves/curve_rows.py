"""Rows of every dataset type and the chat templates, for the comparison with TRL."""

from __future__ import annotations

import random
from typing import Any

STEPS = 20
BATCH, ACCUMULATION = 4, 2
ROWS = STEPS * BATCH * ACCUMULATION

# ChatML with the marks by which TRL finds what the assistant said. Two endings: the usual line break after
# the turn, and none.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_BARE = CHATML.replace(
    "{{ '\n' }}{% endfor %}", "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
).replace("{% if add_generation_prompt %}{{ '", "{% if add_generation_prompt %}{{ '\n")

_WORDS = [
    "Paris",
    "France",
    "fox",
    "wolf",
    "apples",
    "Qwen",
    "story",
    "red",
    "grey",
    "three",
    "who",
    "you are",
]


def _sentence(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(low, high)))


def _messages(rng: random.Random, *, turns: int, system: bool) -> list[dict[str, str]]:
    opening = [{"role": "system", "content": "You're a helpful assistant."}] if system else []
    talk = []
    for _ in range(turns):
        talk.append({"role": "user", "content": _sentence(rng, 1, 12) + "?"})
        talk.append({"role": "assistant", "content": _sentence(rng, 1, 12) + "."})
    return opening + talk


def make_rows(kind: str, count: int = ROWS, seed: int = 1) -> list[dict[str, Any]]:
    """`count` rows of a dataset type, unequal in length, so that no two ways of averaging agree by chance."""
    rng = random.Random(seed)

    def row() -> dict[str, Any]:
        match kind:
            case "text":
                return {"text": _sentence(rng, 2, 30)}
            case "prompt-completion":
                return {"prompt": _sentence(rng, 1, 15), "completion": " " + _sentence(rng, 1, 15)}
            case "messages":
                return {"messages": _messages(rng, turns=rng.randint(1, 3), system=rng.random() < 0.5)}
            case "sharegpt":
                talk = _messages(rng, turns=rng.randint(1, 3), system=False)
                names = {"user": "human", "assistant": "gpt"}
                return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in talk]}
            case "prompt-completion messages":
                talk = _messages(rng, turns=rng.randint(1, 2), system=rng.random() < 0.5)
                return {"prompt": talk[:-1], "completion": talk[-1:]}
            case "preference":
                return {
                    "prompt": _sentence(rng, 1, 15),
                    "chosen": " " + _sentence(rng, 1, 15),
                    "rejected": " " + _sentence(rng, 1, 15),
                }
            case "unpaired":
                return {
                    "prompt": _sentence(rng, 2, 15),
                    "completion": " " + _sentence(rng, 1, 15),
                    "label": rng.random() < 0.6,
                }
            case "unpaired messages":
                talk = _messages(rng, turns=rng.randint(1, 2), system=rng.random() < 0.5)
                return {"prompt": talk[:-1], "completion": talk[-1:], "label": rng.random() < 0.4}
            case "preference messages":
                talk = _messages(rng, turns=rng.randint(1, 2), system=rng.random() < 0.5)
                other = [{"role": "assistant", "content": _sentence(rng, 1, 12) + "!"}]
                return {"prompt": talk[:-1], "chosen": talk[-1:], "rejected": other}
            case "implicit preference messages":
                talk = _messages(rng, turns=rng.randint(1, 2), system=rng.random() < 0.5)
                other = [{"role": "assistant", "content": _sentence(rng, 1, 12) + "!"}]
                return {"chosen": talk, "rejected": talk[:-1] + other}
        raise ValueError(kind)

    return [row() for _ in range(count)]

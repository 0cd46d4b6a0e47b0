"""`posttrain chat`: a conversation in the terminal, with one model or two."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.cli.flags import help_text, parse, read
from posttrain.cli.positional import positional
from posttrain.config.sampling import ChatCommand
from posttrain.errors import ConfigError, PosttrainError, nearest

if TYPE_CHECKING:
    from posttrain.sampling.conversation import Conversation
    from posttrain.types import SamplingParams

_EXAMPLE = """\
posttrain chat runs/demo/sft/model --vs runs/demo/dpo/model
posttrain chat out/model --vs gpt-4o-mini --vs_endpoint https://api.openai.com/v1
echo "Who are you?" | posttrain chat out/model --temperature 0"""

_ABOUT = (
    "A conversation in the terminal. With --vs two models answer each message, one below the other, each in its own "
    "conversation. Ctrl-C stops an answer, Ctrl-D ends. When the input is no terminal, each of its lines is a message "
    "and the answers alone are printed."
)

_COMMANDS = {
    "/reset": "begin a new conversation",
    "/system TEXT": "set the system message; without TEXT there is none",
    "/save FILE.jsonl": "add the conversation to a file that posttrain sft reads",
    "/help": "show this",
    "/quit": "end, as Ctrl-D does",
}
_COMMAND = re.compile(r"(/[a-z]+)(?:\s+(.*))?", re.DOTALL)
# What a model writes is not to move the cursor or set the window's title.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def run(arguments: Sequence[str]) -> int:
    """The exit code of a conversation."""
    words = positional(arguments, ("model",))
    if not words or parse(ChatCommand, words).help:
        usage = "posttrain chat MODEL [--vs OTHER] [flags]"
        page = help_text(ChatCommand, usage=usage, about=_ABOUT, example=_EXAMPLE)
        print(f"{page}\n\nIn the conversation:\n{_commands()}")
        return 0
    command = read(ChatCommand, words)

    from posttrain.sampling.conversation import Conversation
    from posttrain.sampling.opening import open_sampler
    from posttrain.types import SamplingParams

    def note(text: str) -> None:
        print(f"note: {text}", file=sys.stderr)

    asked = [(command.model, command.endpoint)]
    if command.vs is not None:
        asked.append((command.vs, command.vs_endpoint))
    conversations = [
        Conversation(
            name=name,
            model=open_sampler(model, endpoint, command, note=note),
            system_message=command.system_message,
        )
        for name, (model, endpoint) in zip(_names([model for model, _ in asked]), asked)
    ]
    talk = Talk(conversations, SamplingParams(**command.sampling()), command.seed)
    if sys.stdin.isatty() and sys.stdout.isatty():
        _in_terminal(talk)
    else:
        _piped(talk, sys.stdin)
    return 0


@dataclass
class Talk:
    """The conversations that are led at once, and what the user does with them."""

    conversations: list[Conversation]
    params: SamplingParams
    seed: int
    asked: int = 0

    def answers(self, text: str, show: Callable[[str, Iterable[str]], None]) -> None:
        """Puts the message to each model; `show(name, pieces)` is to take what it answers."""
        self.asked += 1
        for conversation in self.conversations:
            pieces = conversation.ask(text, self.params, seed=self.seed + self.asked - 1)
            try:
                show(conversation.name, pieces)
            finally:
                pieces.close()  # type: ignore[attr-defined]

    def obey(self, text: str) -> str | None:
        """What to tell the user after a command; None where the text is a message. Raises EOFError after /quit."""
        match = _COMMAND.fullmatch(text.strip())
        if match is None:
            return None
        word, rest = match[1], (match[2] or "").strip()
        if word in ("/quit", "/exit"):
            raise EOFError
        if word == "/help":
            return _commands()
        if word == "/reset":
            for conversation in self.conversations:
                conversation.turns.clear()
            return "a new conversation"
        if word == "/system":
            for conversation in self.conversations:
                conversation.system_message = rest or None
            return "the system message is set" if rest else "no system message"
        if word == "/save":
            return self._save(rest)
        known = [name.partition(" ")[0] for name in _COMMANDS]
        raise ConfigError(f"no command {word!r}{nearest(word, known)} (commands: {', '.join(known)})")

    def _save(self, file: str) -> str:
        from posttrain.sampling.conversation import save_conversations

        if not file:
            raise ConfigError("/save needs the name of a .jsonl file after it")
        saved = save_conversations(self.conversations, Path(file).expanduser())
        return f"{saved} conversation{'' if saved == 1 else 's'} added to {file}" if saved else "nothing was said yet"


def _in_terminal(talk: Talk) -> None:
    import contextlib

    from rich.console import Console

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, input() edits lines and remembers them with it

    console = Console(highlight=False, markup=False)
    names = " and ".join(conversation.name for conversation in talk.conversations)
    console.print(f"{names}: /help shows the commands, Ctrl-C stops an answer, Ctrl-D ends.", style="dim")

    def show(name: str, pieces: Iterable[str]) -> None:
        console.print(f"{name}: ", style="bold", end="")
        empty = True
        try:
            for piece in pieces:
                text = _CONTROL.sub("", piece)
                sys.stdout.write(text.lstrip() if empty else text)
                sys.stdout.flush()
                empty = empty and not text.strip()
        except KeyboardInterrupt:
            console.print(" [stopped]", style="dim", end="")
        else:
            if empty:
                console.print("[no answer]", style="dim", end="")
        print()

    while True:
        try:
            text = _read_line()
            if not text.strip():
                continue
            told = talk.obey(text)
            if told is not None:
                console.print(told, style="dim")
            else:
                talk.answers(text, show)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            console.print("/quit or Ctrl-D ends", style="dim")
        except PosttrainError as error:
            print()
            console.print(str(error), style="red")


def _read_line() -> str:
    """A message; one that ends in a backslash goes on in the next line."""
    lines = [input("you: ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("...  "))
    return "\n".join(lines)


def _piped(talk: Talk, lines: Iterable[str]) -> None:
    """Answers each line. An error ends it."""
    several = len(talk.conversations) > 1

    def show(name: str, pieces: Iterable[str]) -> None:
        answer = "".join(pieces).strip()
        print(f"{name}: {answer}" if several else answer, flush=True)

    try:
        for line in lines:
            text = line.rstrip("\r\n")
            if not text.strip():
                continue
            told = talk.obey(text)
            if told is None:
                talk.answers(text, show)
            else:
                print(told, file=sys.stderr)
    except EOFError:
        return


def _names(models: Sequence[str]) -> list[str]:
    """Short names that tell the models apart: the last part of a path, or as many parts as it takes."""
    parts = [Path(model.rstrip("/")).parts or (model,) for model in models]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{part[-1]} ({number})" for number, part in enumerate(parts, start=1)]


def _commands() -> str:
    width = max(map(len, _COMMANDS))
    return "\n".join(f"  {name:<{width}}  {what}" for name, what in _COMMANDS.items())

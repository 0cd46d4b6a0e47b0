"""`posttrain chat`: piped, and in a terminal of its own."""

from __future__ import annotations

import io
import json
import os
import pty
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer, status
from tiny import build_tokenizer

from posttrain.cli.chat import _names
from posttrain.cli.main import main
from posttrain.data.trees import sft_trees
from posttrain.models.loading import prepare_tokenizer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(served=("tiny", "other")) as started:
        started.text = lambda prompt, seed: f"{prompt.upper()} !"
        yield started


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`say("line", "line", flags=[...])` pipes lines into the command and gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def piped(*lines: str, flags: list[str]) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return main(["chat", *flags])

    return piped


Say = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def test_lines_are_answered_with_what_was_said_before(server: ChatServer, say: Say, capsys: Capture) -> None:
    flags = ["tiny", f"--endpoint={server.url}", "--system_message", "Be loud.", "--seed", "5"]
    assert say("who?", "", "and why?", flags=flags) == 0
    assert capsys.readouterr().out == "WHO? !\nAND WHY? !\n"
    assert server.bodies[1]["messages"] == [
        {"role": "system", "content": "Be loud."},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "WHO? !"},
        {"role": "user", "content": "and why?"},
    ]
    assert [body["seed"] for body in server.bodies] == [5, 6]
    assert server.bodies[0]["temperature"] == 0.7


def test_commands(server: ChatServer, say: Say, capsys: Capture) -> None:
    lines = ["a", "/reset", "b", "/system Be brief.", "c", "/system", "/etc/passwd is a file", "/quit", "never"]
    assert say(*lines, flags=["tiny", f"--endpoint={server.url}"]) == 0
    said = [[message["content"] for message in body["messages"]] for body in server.bodies]
    assert said[1] == ["b"]
    assert said[2] == ["Be brief.", "b", "B !", "c"]
    assert said[3][-1] == "/etc/passwd is a file"
    assert said[3][0] == "b"
    assert len(said) == 4
    assert "a new conversation\nthe system message is set\nno system message" in capsys.readouterr().err
    assert say("/rest", flags=["tiny", f"--endpoint={server.url}"]) == 2
    assert "no command '/rest'; did you mean '/reset'?" in capsys.readouterr().err


def test_two_models_answer_each_in_its_own_conversation(server: ChatServer, say: Say, capsys: Capture) -> None:
    flags = ["tiny", f"--endpoint={server.url}", "--vs", "other", f"--vs_endpoint={server.url}"]
    assert say("a", "b", "/save both.jsonl", flags=flags) == 0
    assert capsys.readouterr().out == "tiny: A !\nother: A !\ntiny: B !\nother: B !\n"
    assert [body["model"] for body in server.bodies] == ["tiny", "other"] * 2
    saved = [json.loads(line) for line in Path("both.jsonl").read_text().splitlines()]
    assert [line["model"] for line in saved] == ["tiny", "other"]
    assert [message["content"] for message in saved[0]["messages"]] == ["a", "A !", "b", "B !"]


def test_sft_reads_what_was_saved(server: ChatServer, say: Say, capsys: Capture) -> None:
    flags = ["tiny", f"--endpoint={server.url}"]
    assert say("/save c.jsonl", "a", "/save c.jsonl", "/reset", "b", "/save c.jsonl", flags=flags) == 0
    said = capsys.readouterr().err
    assert "nothing was said yet\n1 conversation added to c.jsonl\n" in said
    tokenizer = build_tokenizer()
    prepare_tokenizer(tokenizer)
    made = sft_trees("c.jsonl", tokenizer, max_length=None)
    assert (made.report.format, len(made.trees)) == ("messages", 2)
    assert say("a", "/save c.txt", flags=flags) == 2
    assert "must end in .jsonl" in capsys.readouterr().err
    assert say("a", "/save missing/c.jsonl", flags=flags) == 2
    assert "cannot be written: No such file" in capsys.readouterr().err


def test_an_error_ends_a_piped_conversation(server: ChatServer, say: Say, capsys: Capture) -> None:
    server.failures.append(status(400, "the context is full"))
    assert say("a", "b", flags=["tiny", f"--endpoint={server.url}"]) == 2
    assert "the context is full" in capsys.readouterr().err
    assert len(server.bodies) == 1


def test_a_model_on_this_machine(say: Say, tiny_model_dir: Callable[..., str], capsys: Capture) -> None:
    """Greedy, so the same twice; the tokens are as many as there is room for, and then the conversation is full."""
    flags = [tiny_model_dir(max_position_embeddings=64), "--temperature=0", "--max_tokens=1000"]
    assert say("who are you?", flags=flags) == 0
    alone = capsys.readouterr().out
    assert alone.strip()
    assert say("who are you?", "/reset", "who are you?", flags=flags) == 0
    assert capsys.readouterr().out == alone * 2
    assert say("who are you? " * 20, flags=flags) == 2
    assert "filled all the positions" in capsys.readouterr().err


def test_names_tell_the_models_apart() -> None:
    assert _names(["runs/a/model"]) == ["model"]
    assert _names(["runs/a/model", "runs/b/model/"]) == ["a/model", "b/model"]
    assert _names(["Qwen/Qwen3-0.6B", "gpt"]) == ["Qwen3-0.6B", "gpt"]
    assert _names(["a/model", "a/model"]) == ["model (1)", "model (2)"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny", "--vs_endpoint", "http://h/v1"], "only together with vs"),
        (["tiny", "--tempature", "1"], "did you mean 'temperature'?"),
        (["tiny", "other"], "'other' stands alone"),
        (["./none"], "no directory './none'"),
    ],
)
def test_broken_commands(words: list[str], said: str, capsys: Capture) -> None:
    assert main(["chat", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sample", "chat"])
def test_help_is_instant(command: str) -> None:
    """Half a second of processor time; better of two."""
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "posttrain.cli", command, "--help"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert not {"torch", "transformers", "httpx2", "rich"} & {
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
        }
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


class Terminal:
    """The command in a terminal: what it shows is read, keys are typed."""

    def __init__(self, words: list[str], directory: Path) -> None:
        self.shown = ""
        pid, self.file = pty.fork()
        if pid == 0:
            os.chdir(directory)
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, [sys.executable, "-m", "posttrain.cli", *words])
        self.pid = pid

    def until(self, text: str, timeout_s: float = 60) -> str:
        """What was shown up to the text, which is taken away."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            ready, _, _ = select.select([self.file], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {text!r} in {self.shown!r}"
            try:
                self.shown += os.read(self.file, 4096).decode()
            except OSError:  # it has ended
                raise AssertionError(f"ended without {text!r}: {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self.file, keys.encode())

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_in_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_ends(server: ChatServer, tmp_path: Path) -> None:
    texts = iter(["word " * 500 + "end", "\x1b]0;title\x07fine", "again"])
    server.text = lambda prompt, seed: next(texts)
    server.piece_s = 0.02
    screen = Terminal(["chat", "tiny", f"--endpoint={server.url}"], tmp_path)
    screen.until("Ctrl-D ends.")
    screen.until("you: ")
    screen.type("tell me\n")
    screen.until("tiny: ")
    screen.until("word word word")
    screen.type("\x03")
    assert "end" not in screen.until("[stopped]")
    screen.until("you: ")
    time.sleep(0.5)  # nobody is quicker; until the line is read, a key may belong to the answer before
    screen.type("\x03")
    screen.until("/quit or Ctrl-D ends")
    screen.until("you: ")
    screen.type("/nonsense\n")
    screen.until("no command '/nonsense'")
    screen.until("you: ")
    screen.type("first\\\nsecond\n")
    screen.until("tiny: ")
    assert "\x1b]" not in screen.until("fine")
    screen.until("you: ")
    history = server.bodies[-1]["messages"]
    assert history[0] == {"role": "user", "content": "tell me"}
    assert history[1]["content"].startswith("word word word")  # what there was of it
    assert history[2]["content"] == "first\nsecond"
    screen.type("\x04")
    assert screen.code() == 0

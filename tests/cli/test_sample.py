"""`posttrain sample`: prompts in, answers out, and on with it after whatever happened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, status
from tiny import build_tokenizer

from posttrain.cli.main import main
from posttrain.data.loading import load_rows
from posttrain.data.trees import sft_trees
from posttrain.errors import DataError
from posttrain.models.loading import prepare_tokenizer
from posttrain.sampling.prompt_rows import prompt_rows

QUESTION = {"role": "user", "content": "Hi?"}
ANSWER = {"role": "assistant", "content": "Yes."}
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as started:
        yield started


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions(directory: Path, count: int) -> str:
    return write(directory / "prompts.jsonl", [{"prompt": f"q{n}", "level": n} for n in range(count)])


# What is written


def test_a_line_for_each_answer_with_the_columns_of_its_row(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.text = lambda prompt, seed: f"{prompt}!"
    words = ["sample", "tiny", questions(here, 2), "--endpoint", server.url, "--count", "2"]
    assert main([*words, "--system_message", "Be kind."]) == 0
    wanted = [
        {
            "level": row, "prompt": [SYSTEM, {"role": "user", "content": f"q{row}"}],
            "completion": [{"role": "assistant", "content": f"q{row}!"}], "row": row, "number": number,
            "finish_reason": "stop", "tokens": None, "logprob": None,
        }
        for row in range(2) for number in range(2)
    ]  # fmt: skip
    assert lines(here / "answers.jsonl") == wanted
    printed = capsys.readouterr()
    assert "answers.jsonl: 4 completions of 2 prompts" in printed.out
    assert "2 requests, 0 of them repeated; 10 prompt tokens" in printed.out
    assert "posttrain sft --model MODEL --train_dataset answers.jsonl" in printed.out
    assert printed.err == ""  # no bar where nobody looks


def test_sft_reads_the_answers(server: ChatServer, here: Path) -> None:
    rows = [{"messages": [QUESTION, ANSWER]}, {"messages": [SYSTEM, QUESTION]}]
    main(["sample", "tiny", write(here / "chat.jsonl", rows), f"--endpoint={server.url}"])
    tokenizer = build_tokenizer()
    prepare_tokenizer(tokenizer)
    report = sft_trees(str(here / "answers.jsonl"), tokenizer, max_length=None).report
    assert report.format == "prompt-completion"
    assert "messages" not in lines(here / "answers.jsonl")[0]


def test_a_model_on_this_machine(
    here: Path, tiny_model_dir: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(here / "p.jsonl", [{"prompt": "Who are you?"}, {"prompt": [5, 6, 7]}, {"prompt": "2 + 3"}])
    model = tiny_model_dir()
    words = ["sample", model, prompts, "--count", "3", "--max_tokens", "6", "--seed", "4"]
    assert main([*words, "--output", "deep/er/all.jsonl"]) == 0
    all_of_them = lines(here / "deep/er/all.jsonl")
    assert [(line["row"], line["number"]) for line in all_of_them] == [(r, n) for r in range(3) for n in range(3)]
    assert {type(line["completion"]) for line in all_of_them[3:6]} == {str}
    assert all(1 <= line["tokens"] <= 6 and line["logprob"] < 0 for line in all_of_them)
    assert "/s)" in capsys.readouterr().out
    # the same rows alone, in another order of work: the draws are the same
    (here / "some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in all_of_them[3:6]))
    (here / "deep/er/all.jsonl.settings.json").rename(here / "some.jsonl.settings.json")
    assert main([*words, "--output", "some.jsonl"]) == 0
    assert sorted(lines(here / "some.jsonl"), key=lambda line: line["row"]) == all_of_them

    (here / "some.jsonl").unlink()
    assert main(["sample", model, prompts, "--output", "some.jsonl", "--max_tokens", "510"]) == 2
    assert "p.jsonl:1: with max_tokens=510 the prompt is" in capsys.readouterr().err


# Going on


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_killed_and_interrupted_runs_end_in_the_same_file(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "tiny", questions(here, 150), f"--endpoint={server.url}", "--count=2"]
    assert main([*words, "--output=whole.jsonl"]) == 0
    whole, output = here / "whole.jsonl", here / "answers.jsonl"
    server.delay_s = 0.05

    def grown(before: int) -> None:
        deadline = time.monotonic() + 60
        while (not output.exists() or output.stat().st_size == before) and time.monotonic() < deadline:
            time.sleep(0.01)

    process = subprocess.Popen([sys.executable, "-m", "posttrain.cli", *words], stdout=subprocess.DEVNULL)
    grown(0)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = output.stat().st_size
    assert 0 < killed < whole.stat().st_size

    ctrl_c = threading.Thread(target=lambda: (grown(killed), os.kill(os.getpid(), signal.SIGINT)))
    ctrl_c.start()
    assert main(words) == 130
    ctrl_c.join()
    assert "of 150 prompts answered. The same command goes on" in capsys.readouterr().err
    assert killed < output.stat().st_size < whole.stat().st_size

    server.delay_s = 0
    assert main(words) == 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_file_cut_off_anywhere_is_completed(server: ChatServer, here: Path) -> None:
    words = ["sample", "tiny", questions(here, 4), f"--endpoint={server.url}", "--count=3"]
    assert main(words) == 0
    output = here / "answers.jsonl"
    whole = output.read_bytes()
    line = len(whole) // 12
    for size in (0, 1, line // 2, line, 2 * line + 7, 3 * line, len(whole) - 1, len(whole)):
        output.write_bytes(whole[:size])
        asked = len(server.bodies)
        assert main(words) == 0
        assert output.read_bytes() == whole
        again = len(server.bodies) - asked
        assert again == 4 - whole[:size].count(b"\n") // 3  # whole groups are not asked again


def test_nothing_to_do_loads_nothing(here: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", "tiny", questions(here, 1), f"--endpoint={server.url}"]
    main(words)
    asked = len(server.bodies)
    assert main(words) == 0
    assert len(server.bodies) == asked
    assert "1 completions of 1 prompts, as before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--temperature=0.5"], r"temperature 1.0 (now 0.5)"),
        (["--seed=3"], "seed 0 (now 3)"),
        (["--count=1"], "count 2 (now 1)"),
        (["--stop=x"], "stop [] (now ['x'])"),
        (["--system_message=Be kind."], "prompts '"),
        (["--extra_body.user=me"], "extra_body {} (now {'user': 'me'})"),
    ],
)
def test_other_settings_are_refused(
    here: Path, server: ChatServer, changed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "tiny", questions(here, 2), f"--endpoint={server.url}", "--count=2"]
    assert main(words) == 0
    before = digest(here / "answers.jsonl")
    assert main([*words, "--concurrency=3"]) == 0  # decides nothing
    assert main([*words, *changed]) == 2
    assert f"answers made with {said}" in capsys.readouterr().err
    assert digest(here / "answers.jsonl") == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json\n", "answers.jsonl:1: no answer of this command"),
        ('{"row": 0, "number": 1}\n', "answers.jsonl:1: answers before this line are missing"),
        ('{"row": 0, "number": 0}\n{"row": 1, "number": 0}\n', "answers.jsonl:2: answers before"),
        ('{"row": 0, "number": 0}\n{"row": 0, "number": 1}\n{"row": 0, "number": 0}\n', "answers.jsonl:3"),
        ('{"row": 7, "number": 0}\n', "answers.jsonl:1: answers before"),
    ],
)
def test_a_file_that_was_changed_is_left_alone(
    here: Path, server: ChatServer, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "tiny", questions(here, 2), f"--endpoint={server.url}", "--count=2"]
    main(words)
    (here / "answers.jsonl").write_text(content)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert (here / "answers.jsonl").read_text() == content
    (here / "answers.jsonl.settings.json").unlink()
    assert main(words) == 2
    assert "settings.json is missing" in capsys.readouterr().err


def test_prompts_without_an_answer_come_with_the_next_call(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuse = lambda body: "too rude" if body["messages"][-1]["content"] == "q1" else None
    words = ["sample", "tiny", questions(here, 3), f"--endpoint={server.url}"]
    assert main(words) == 2
    assert "1 prompts stayed without an answer" in (said := capsys.readouterr().err)
    assert f"prompts.jsonl:2: {server.url} answered 400: too rude" in said
    assert [line["row"] for line in lines(here / "answers.jsonl")] == [0, 2]
    server.refuse = lambda body: None
    assert main(words) == 0
    assert "2 of 3 prompts are answered; going on" in capsys.readouterr().err
    assert [line["row"] for line in lines(here / "answers.jsonl")] == [0, 2, 1]


def test_a_server_that_fails_for_good_ends_it(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "tiny", questions(here, 100), f"--endpoint={server.url}", "--max_retries=0"]
    server.failures.extend([status(500, "burning")] * 100)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "prompts stayed without an answer, such as" in said
    assert "burning" in said
    assert len(server.bodies) < 100
    server.failures.clear()
    assert main(words) == 0
    server.key = "secret"
    (here / "answers.jsonl").unlink()
    assert main(words) == 2
    assert "No key was sent" in capsys.readouterr().err


# Prompts


@pytest.mark.parametrize(
    ("row", "prompt", "columns"),
    [
        ({"prompt": "Hi?", "answer": "5"}, [QUESTION], {"answer": "5"}),
        ({"prompt": [SYSTEM, QUESTION], "completion": [ANSWER]}, [SYSTEM, QUESTION], {"completion": [ANSWER]}),
        ({"prompt": '[{"role": "user", "content": "Hi?"}]'}, [QUESTION], {}),
        ({"prompt": "Hi?", "system": "Be kind."}, [SYSTEM, QUESTION], {}),
        ({"prompt": [1, 2]}, [1, 2], {}),
        ({"messages": [QUESTION, ANSWER, QUESTION, ANSWER], "n": 1}, [QUESTION, ANSWER, QUESTION], {"n": 1}),
        ({"messages": [QUESTION]}, [QUESTION], {}),
        ({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]}, [QUESTION], {}),
        ({"question": "Hi?", "answer": "#### 5"}, [QUESTION], {"answer": "#### 5"}),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, [{"role": "user", "content": "Add.\n1 2"}],
         {"output": "3"}),
        ({"instruction": "Hi?", "input": "", "history": [["Hi?", "Yes."]]}, [QUESTION, ANSWER, QUESTION], {}),
        ({"prompt": "Hi?", "messages": [QUESTION, ANSWER]}, [QUESTION], {}),
    ],
)  # fmt: skip
def test_rows_that_ask(row: dict[str, Any], prompt: Any, columns: dict[str, Any]) -> None:
    [read] = prompt_rows(load_rows([row]))
    assert (read.prompt, dict(read.columns)) == (prompt, columns)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "Hi?"}, "the columns text hold no prompt"),
        ({"messages": [ANSWER]}, "'messages' asks nothing"),
        ({"prompt": [SYSTEM]}, "'prompt' asks nothing"),
        ({"prompt": []}, "'prompt' asks nothing"),
        ({"prompt": "Hi?", "tools": [{"name": "f"}]}, "'tools' is not empty"),
        ({"prompt": 5}, "'prompt' must be a list of messages"),
        ({"instruction": "Hi?", "history": "x"}, "'history' must be a list"),
    ],
)
def test_rows_that_do_not(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"row 1 of prompts: {said}"):
        prompt_rows(load_rows([{"prompt": "fine"}, row], name="prompts"))


def test_a_system_message_where_none_can_be() -> None:
    for row in ({"prompt": [1, 2]}, {"prompt": [SYSTEM, QUESTION]}):
        with pytest.raises(DataError, match="system message"):
            prompt_rows(load_rows([row]), system_message="Be kind.")


# The command line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m"], "prompts is missing"),
        (["m", "p.jsonl", "q.jsonl"], "'q.jsonl' stands alone"),
        (["m", "p.jsonl", "--cont", "3"], "did you mean 'count'?"),
        (["m", "p.jsonl", "--count", "0"], "a whole number of at least 1"),
        (["m", "p.jsonl", "--temperature", "-1"], "a number of at least 0"),
        (["m", "p.jsonl", "--output", "a.csv"], "must end in .jsonl"),
        (["m", "p.jsonl", "--output", "p.jsonl"], "is the file of prompts"),
        (["m", "p.jsonl", "--concurrency", "3"], "only together with endpoint"),
        (["m", "p.jsonl", "--dtype", "float32", "--endpoint", "http://h/v1"], "only without endpoint"),
        (["m", "missing.jsonl"], "there is no file 'missing.jsonl'"),
        (["m", "p.jsonl", "--endpoint", "localhost:8000"], "Write it like http://localhost:8000/v1"),
        (["./none", "p.jsonl"], "no directory './none'"),
    ],
)
def test_broken_commands(here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "p.jsonl", [{"prompt": "Hi?"}])
    assert main(["sample", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (here / "answers.jsonl").exists()

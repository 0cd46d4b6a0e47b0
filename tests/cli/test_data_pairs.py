"""`posttrain data pairs`: by correction and by sampling, judged by rewards, by a model, and by people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from tiny import build_tokenizer

from posttrain import embedded
from posttrain.cli.main import main
from posttrain.curation import pairs_sample
from posttrain.data.trees import preference_trees
from posttrain.models.loading import load_model_and_tokenizer, prepare_tokenizer
from posttrain.sampling.local import LocalSampler
from posttrain.types import SamplingParams
from posttrain.web.questions import read_questions

REWARDS = """
def length(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def shout(text):
    return text.upper()


def rewrite(text):
    return "Something else entirely, and much longer than it was."


def fail(text):
    raise ValueError("no such thing")
"""


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as started:
        yield started


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


def prompts(*texts: str) -> str:
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return "p.jsonl"


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def sides(path: str = "out.jsonl") -> list[tuple[str, str]]:
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in lines(path)]


def rejects(path: str = "out.jsonl") -> list[tuple[int, str]]:
    return [(line["line"], line["step"]) for line in lines(f"{path}.rejects.jsonl")]


def counts(path: str = "out.jsonl") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{path}.card.json").read_text())["counts"]
    return found


def remake(here: Path) -> None:
    """Takes away what was made, and leaves the answers."""
    for file in here.glob("out.jsonl*"):
        if not file.name.endswith("answers.jsonl"):
            file.unlink()


# By correction


def correct(server: ChatServer, path: str, *more: str) -> list[str]:
    return ["data", "pairs", "correct", path, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl", *more]


def test_rules_make_pairs_where_they_change_something(server: ChatServer, here: Path) -> None:
    server.text = lambda prompt, seed: {"who": "I am Qwen.", "wer": "我是Qwen。", "none": ""}.get(prompt, "Hello.")
    path = prompts("who", "wer", "hi", "who", "none")
    assert main(correct(server, path, "--rules", "{Qwen: Deep Qwen}")) == 0
    assert sides() == [("I am Deep Qwen.", "I am Qwen."), ("我是Deep Qwen。", "我是Qwen。")]
    assert rejects() == [(3, "changed"), (4, "repeated"), (5, "not empty")]
    assert [body["temperature"] for body in server.bodies] == [0.0] * 5
    notes = lines("out.jsonl")[1]["_provenance"]
    assert (notes["line"], notes["model"], notes["correction"]) == (2, "tiny", "rules")
    assert counts()["pairs"] == 2
    tokenizer = build_tokenizer()
    prepare_tokenizer(tokenizer)
    assert len(preference_trees("out.jsonl", tokenizer, max_length=None).trees) == 2


def test_a_function_corrects_within_bounds(server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.text = lambda prompt, seed: f"{prompt} said so."
    path = prompts("a", "b")
    assert main(correct(server, path, "--function", "mine.py:shout", "--max_change=1")) == 0
    assert sides() == [("A SAID SO.", "a said so."), ("B SAID SO.", "b said so.")]
    remake(here)
    assert main(correct(server, path, "--function", "mine.py:rewrite")) == 2  # no row is left
    assert rejects() == [(1, "bounded"), (2, "bounded")]
    assert "no row is left" in capsys.readouterr().err
    remake(here)
    assert main(correct(server, path, "--function", "mine.py:fail")) == 2
    assert "mine.py:fail raised for answer 0 to p.jsonl:1: ValueError: no such thing" in capsys.readouterr().err
    assert len(server.bodies) == 2  # the model was asked once


def test_an_editor_is_told_what_to_mend(server: ChatServer, here: Path) -> None:
    def text(prompt: str, seed: int) -> str:
        if "Remove the apology." not in prompt:
            return {"same": "Yes.", "far": "Yes, sorry."}.get(prompt, f"Sorry, but {prompt} it is.")
        answer = prompt.split("<answer>\n")[1].split("\n</answer>")[0]
        if answer == "Yes, sorry.":
            return "An entirely different text, which answers another question."
        return f"<answer>\n{answer.removeprefix('Sorry, but ')}\n</answer>"

    server.text = text
    path = prompts("a", "same", "far")
    how = [
        "--editor=tiny",
        f"--editor_endpoint={server.url}",
        "--instruction",
        "Remove the apology.",
        "--max_change=0.7",
    ]
    assert main(correct(server, path, *how)) == 0
    assert sides() == [("a it is.", "Sorry, but a it is.")]
    assert rejects() == [(2, "changed"), (3, "bounded")]
    assert counts()["edits requests"] == 3
    edits = [body["messages"][0]["content"] for body in server.bodies[3:]]
    assert len(edits) == 3
    assert all("<request>" in edit for edit in edits)
    remake(here)  # the edits with it
    server.refuse = lambda body: "too busy" if "Remove" in body["messages"][0]["content"] else None
    assert main(correct(server, path, *how)) == 2
    assert rejects() == [(1, "edited"), (2, "edited"), (3, "edited")]
    server.refuse = lambda body: None
    assert main(correct(server, path, *how)) == 0  # the failures are tried again
    assert sides() == [("a it is.", "Sorry, but a it is.")]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "none of them is given"),
        (["--rules={a: b}", "--function=mine.py:shout"], "rules and function"),
        (["--rules={a: b, b: c}"], "contradict each other"),
        (["--rules={a: b}", "--max_change=0.5"], "only together with editor or function"),
        (["--rules={a: b}", "--instruction=x"], "only together with editor"),
        (["--editor=m"], "instruction is missing"),
        (["--function=mine.py:none"], "has no 'none'"),
    ],
)
def test_corrections_that_cannot_be(
    more: list[str], message: str, server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(correct(server, prompts("a"), *more)) == 2
    assert message in capsys.readouterr().err
    assert server.bodies == []


# By sampling


def sample(server: ChatServer, path: str, *more: str) -> list[str]:
    return ["data", "pairs", "sample", path, "--model=tiny", f"--endpoint={server.url}", "--output=out.jsonl", *more]


def in_turn(*texts: str) -> Any:
    """The texts one after the other, for each prompt anew."""
    told: dict[str, int] = {}

    def text(prompt: str, seed: int) -> str:
        place = told[prompt] = told.get(prompt, -1) + 1
        return "same" if prompt == "tie" else texts[place % len(texts)]

    return text


def test_best_against_worst_by_a_reward(server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.text = in_turn("ab", "abcd", "a", "")
    path = prompts(*[f"p{n}" for n in range(12)], "tie")
    assert main(sample(server, path, "--reward=mine.py:length", "--count=4")) == 0
    assert sides() == [("abcd", "a")] * 12
    assert rejects() == [(13, "different")]
    notes = lines("out.jsonl")[0]["_provenance"]
    assert (notes["chosen"]["score"], notes["rejected"]["score"]) == (4.0, 1.0)
    assert notes["chosen"]["scores"] == {"length": 4.0}
    assert notes["chosen"]["number"] == 1
    found = counts()
    assert (found["pairs"], found["characters of chosen"], found["characters of rejected"]) == (12, 4.0, 1.0)
    assert found["chosen is longer"].startswith("100.0%")
    assert "Warning: where the sides differ in length, chosen is the longer one" in capsys.readouterr().out


def test_all_pairs_above_a_margin(server: ChatServer, here: Path) -> None:
    server.text = in_turn("ab", "abcd", "a", "ab")
    path = prompts("p")
    how = ["--reward=mine.py:length", "--count=4", "--pairing=all_above_margin"]
    assert main(sample(server, path, *how, "--margin=2")) == 0
    assert sides() == [("abcd", "a"), ("abcd", "ab")]  # equal texts are one answer
    remake(here)
    assert main(sample(server, path, *how, "--margin=4")) == 2
    assert rejects() == [(1, "apart")]
    assert len(server.bodies) == 1


def test_a_model_judges_in_both_orders(server: ChatServer, here: Path) -> None:
    """The judge prefers the longer answer, and for the prompt "first" the one that is shown first."""
    answers = in_turn("a", "abc", "ab")

    def text(prompt: str, seed: int) -> str:
        if "<first_answer>" not in prompt:
            return str(answers(prompt, seed))
        first, second = (
            prompt.split(f"<{tag}>\n")[1].split(f"\n</{tag}>")[0] for tag in ("first_answer", "second_answer")
        )
        if "<request>\nfirst\n" in prompt:
            return "VERDICT: FIRST"
        return f"Longer is better.\nVERDICT: {'FIRST' if len(first) > len(second) else 'SECOND'}"

    server.text = text
    how = ["--judge=tiny", f"--judge_endpoint={server.url}", "--count=3", "--rubric", "Longer is better."]
    assert main(sample(server, prompts("p", "first"), *how)) == 0
    assert sides() == [("abc", "a")]
    notes = lines("out.jsonl")[0]["_provenance"]
    assert (notes["chosen"]["scores"], notes["rejected"]["scores"]) == ({"win_rate": 1.0}, {"win_rate": 0.0})
    assert rejects() == [(2, "apart")]  # what changes with the order is a tie
    asked = [body for body in server.bodies if "<first_answer>" in body["messages"][0]["content"]]
    assert len(asked) == 2 + 2 * 3 * 2  # a trial, then three pairs of two prompts in two orders
    assert "Longer is better." in asked[2]["messages"][0]["content"]


def test_people_get_prompts_with_their_answers(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.text = in_turn("b", "a", "b")
    assert main(sample(server, prompts("p", "tie"), "--person", "--count=3")) == 0
    (row,) = lines("out.jsonl")
    assert row["prompt"] == [{"role": "user", "content": "p"}]
    assert [(answer["text"], answer["model"]) for answer in row["answers"]] == [("b", "tiny"), ("a", "tiny")]
    assert row["_provenance"]["line"] == 1
    (question,) = read_questions(["out.jsonl"]).questions  # as the page reads them
    assert [answer.text for answer in question.answers] == ["b", "a"]
    assert rejects() == [(2, "different")]
    assert "posttrain data label out.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "none of them is given"),
        (["--reward=length", "--person"], "reward and person"),
        (["--person", "--margin=1"], "no effect with person"),
        (["--reward=length", "--rubric=x"], "only together with judge"),
        (["--reward=length", "--max_pairs=2"], "only with pairing=all_above_margin"),
        (["--reward=length", "--pairing=best"], "best_worst, best_vs_two_sigma, all_above_margin"),
    ],
)
def test_judging_that_cannot_be(
    more: list[str], message: str, server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sample(server, prompts("a"), *more)) == 2
    assert message in capsys.readouterr().err
    assert server.bodies == []


def test_in_python_with_the_embedded_model() -> None:
    model, tokenizer = load_model_and_tokenizer(embedded.model_path(), device="cpu")

    def length(completions: list[Any], **columns: Any) -> list[float]:
        return [float(len(completion[0]["content"])) for completion in completions]

    rows, card = pairs_sample(
        ["Who are you?", "What is the capital of China?"], LocalSampler(model, tokenizer), length,
        count=6, params=SamplingParams(max_tokens=24), pairing="best_vs_two_sigma",
    )  # fmt: skip
    assert isinstance(rows, list)
    assert rows
    assert all(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in rows)
    assert card.counts["pairs"] == len(rows)
    assert rows[0]["_provenance"]["source"] == "prompts"


def test_the_commands_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["pairs", "correct", "--help"], ["pairs", "sample", "--help"], ["distill", "-h"], ["reject-sample"]):
        assert main(["data", *words]) == 0
        assert "Usage: posttrain data" in capsys.readouterr().out
    assert main(["data", "pairs", "samples"]) == 2

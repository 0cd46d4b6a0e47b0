"""`posttrain data reject-sample`: which answers are kept, how hard the prompts are, and what nobody could judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import ChatServer
from tiny import build_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from posttrain import embedded
from posttrain.cli.main import main
from posttrain.curation import reject_sample
from posttrain.models.loading import load_model_and_tokenizer
from posttrain.rewards.combination import RewardSet
from posttrain.sampling.local import LocalSampler
from posttrain.types import SamplingParams, Unjudged

# The answer is the prompt's number of 1s among four, the rest 0s; "q4" is solved by everybody, "q0" by nobody.
REWARDS = """
from posttrain.types import Unjudged

calls = []


def right(prompts, completions, level, **columns):
    calls.append(len(completions))
    with open("calls.txt", "a") as file:
        file.write(f"{len(completions)}\\n")
    texts = [completion[0]["content"] for completion in completions]
    return [Unjudged("who knows") if text.startswith("?") else float(text[0]) for text in texts]
"""


@pytest.fixture
def server() -> Iterator[ChatServer]:
    counts: dict[str, int] = {}

    def text(prompt: str, seed: int) -> str:
        place = counts[prompt] = counts.get(prompt, -1) + 1
        if prompt == "unknown" and place % 4 == 0:
            return "?"
        right = int(prompt[1]) if prompt[1:].isdigit() else 4
        return f"{int(place % 4 < right)} {place % 4 // 2}"

    with ChatServer(text=text) as started:
        yield started


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": f"q{n}", "level": n} for n in (0, 1, 2, 4, 4)]
    rows[4]["prompt"] = "unknown"
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def words(server: ChatServer, *more: str) -> list[str]:
    given = ["--model=tiny", f"--endpoint={server.url}", "--reward=rewards.py:right", "--count=4", "--output=out.jsonl"]
    return ["data", "reject-sample", "p.jsonl", *given, *more]


def kept(path: str = "out.jsonl") -> list[tuple[int, str]]:
    return [(row["_provenance"]["line"], row["completion"][0]["content"]) for row in lines(path)]


def test_best_above_and_first(server: ChatServer, here: Path) -> None:
    assert main(words(server, "--threshold=1")) == 0
    assert kept() == [(2, "1 0"), (3, "1 0"), (4, "1 0"), (5, "1 0")]
    for way, expected in (
        (["--keep=above"], [(2, "1 0"), (3, "1 0"), (4, "1 0"), (4, "1 1"), (5, "1 0"), (5, "1 1")]),
        (["--keep=first", "--k=1"], [(2, "1 0"), (3, "1 0"), (4, "1 0"), (5, "1 0")]),
    ):
        for file in here.glob("out.jsonl*"):
            if not file.name.endswith("answers.jsonl"):
                file.unlink()
        asked = len(server.bodies)
        assert main(words(server, "--threshold=1", *way)) == 0
        assert kept() == expected
        assert len(server.bodies) == asked  # other rules, the same answers
    notes = lines("out.jsonl")[0]["_provenance"]
    assert (notes["scores"], notes["pass_rate"]) == ({"right": 1.0}, 0.25)


def test_the_first_different_ones_in_the_order_they_were_drawn(server: ChatServer, here: Path) -> None:
    (here / "p.jsonl").write_text('{"prompt": "p", "level": 1}\n')
    texts = iter(("1 b", "1 a", "1 b", "1 c"))
    server.text = lambda prompt, seed: next(texts)
    assert main(words(server, "--threshold=1", "--keep=first", "--k=2")) == 0
    assert kept() == [(1, "1 b"), (1, "1 a")]


def test_prompts_that_nobody_and_everybody_solves_are_listed(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(server, "--threshold=1")) == 0
    listed = {
        band: [row["prompt"] for row in lines(f"out.jsonl.{band}.jsonl")] for band in ("unsolved", "mixed", "solved")
    }
    # what was not judged as a whole is in none of them
    assert listed == {"unsolved": ["q0"], "mixed": ["q1", "q2"], "solved": ["q4"]}
    assert lines("out.jsonl.mixed.jsonl")[0]["level"] == 1
    counts = json.loads(Path("out.jsonl.card.json").read_text())["counts"]
    # q0 .. q4 solve 0, 1, 2 and 4 of 4: pass@1 = 7/16; pass@2: 0, 1/2, 5/6, 1 -> 7/12; pass@4: 3/4
    assert counts["pass@1"].startswith("43.8%")
    assert counts["pass@2"].startswith("58.3%")
    assert counts["pass@4"].startswith("75.0%")
    assert counts["prompts not wholly judged"] == 1
    assert counts["answers not judged"] == 1
    in_bands = {name.split()[1]: number for name, number in counts.items() if name.endswith("right)")}
    assert in_bands == {"unsolved": 1, "hard": 1, "medium": 1, "easy": 0, "solved": 1}
    (reject,) = lines("out.jsonl.rejects.jsonl")
    assert (reject["line"], reject["step"]) == (1, "threshold")
    assert "learns from neither" in capsys.readouterr().out


def test_scores_are_asked_for_once_but_for_what_could_not_be_judged(server: ChatServer, here: Path) -> None:
    assert main(words(server, "--threshold=1")) == 0
    for file in here.glob("out.jsonl*"):
        if not file.name.endswith("answers.jsonl"):
            file.unlink()
    (here / "calls.txt").unlink()
    assert main(words(server, "--threshold=1", "--keep=above")) == 0
    assert (here / "calls.txt").read_text() == "4\n"


def test_without_a_threshold_there_is_no_pass_rate(server: ChatServer, here: Path) -> None:
    assert main(words(server, "--threshold=none")) == 0
    assert len(lines("out.jsonl")) == 5  # the best, whatever it is
    counts = json.loads(Path("out.jsonl.card.json").read_text())["counts"]
    assert not any("pass@" in name or "unsolved" in name for name in counts)
    assert not list(here.glob("out.jsonl.*solved.jsonl"))


def test_a_prompt_of_which_nothing_was_judged_is_a_failure_and_tried_again(server: ChatServer, here: Path) -> None:
    (here / "p.jsonl").write_text('{"prompt": "unknown", "level": 1}\n')
    server.text = lambda prompt, seed: "?"
    assert main(words(server, "--threshold=1")) == 2
    (reject,) = lines("out.jsonl.rejects.jsonl")
    assert (reject["step"], reject["reason"]) == ("judged", "who knows")
    assert lines("out.jsonl.unsolved.jsonl") == []
    (here / "rewards.py").write_text(REWARDS.replace('text.startswith("?")', "False").replace("text[0]", "1"))
    for file in here.glob("out.jsonl*"):  # the reward is another now
        if not file.name.endswith("answers.jsonl"):
            file.unlink()
    assert main(words(server, "--threshold=1")) == 0
    assert len(lines("out.jsonl")) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "threshold is missing"),
        (["--threshold=none", "--keep=above"], "needs a threshold"),
        (["--threshold=1", "--k=2"], "only with keep=first"),
        (["--threshold=1", "--count=1"], "at least 2"),
        (["--threshold=1", "--reward_weights", "1", "2"], "2 values for 1 rewards"),
        (["--threshold=1", "--reward=rewards.py:missing"], "has no 'missing'"),
    ],
)
def test_flags_that_do_not_go_together(
    more: list[str], message: str, server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(server, *more)) == 2
    assert message in capsys.readouterr().err
    assert server.bodies == []


def test_a_reward_without_its_column_is_found_before_anything_is_asked(
    server: ChatServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "p.jsonl").write_text('{"prompt": "q1"}\n')
    assert main(words(server, "--threshold=1")) == 2
    assert "takes 'level', which is no column" in capsys.readouterr().err
    assert server.bodies == []


def test_in_python_with_the_embedded_model() -> None:
    datasets = pytest.importorskip("datasets")
    model, tokenizer = load_model_and_tokenizer(embedded.model_path(), device="cpu")
    prompts = datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])

    def length(completions: list[Any], **columns: Any) -> list[float | Unjudged]:
        return [-len(completion[0]["content"]) / 100 for completion in completions]

    rows, card = reject_sample(
        prompts, LocalSampler(model, tokenizer), length, threshold=None, count=4, params=SamplingParams(max_tokens=24)
    )
    assert isinstance(rows, datasets.Dataset)
    assert card.counts["answers"] == 8
    with RewardSet(length) as rewards:
        for row in rows:
            scored = rewards.score(
                prompts=[row["prompt"]], completions=[row["completion"]], completion_ids=None, columns={}
            )
            assert scored.total == [row["_provenance"]["scores"]["length"]]


def test_a_reward_model_is_named_by_its_directory(server: ChatServer, here: Path) -> None:
    config = AutoConfig.for_model(
        "llama", vocab_size=384, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained("scorer")
    build_tokenizer().save_pretrained("scorer")
    server.text = lambda prompt, seed: f"{prompt} {seed}"
    given = ["--model=tiny", f"--endpoint={server.url}", "--reward=./scorer", "--threshold=none", "--count=3"]
    assert main(["data", "reject-sample", "p.jsonl", *given, "--output=out.jsonl"]) == 0
    rows = lines("out.jsonl")
    answers = lines("out.jsonl.answers.jsonl")
    scores = {line["row"]: line["value"]["total"] for line in answers if line.get("kind") == "scores"}
    assert len({round(score, 4) for score in scores[0]}) > 1
    for row in rows:
        notes = row["_provenance"]
        assert list(notes["scores"].values()) == [max(scores[notes["line"] - 1])]

"""A reward model as a reward: the same scores as transformers gives the rendered rows, everywhere a reward goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_model, build_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.cli import main as cli
from posttrain.errors import ModelError, RewardError
from posttrain.evaluation.graders import Graders
from posttrain.models.saving import save_model
from posttrain.models.score_loading import score_model_of, settle_pad_token
from posttrain.rewards.combination import RewardSet
from posttrain.rewards.names import make_reward
from posttrain.rewards.reward_model import reward_model
from posttrain.types import Unjudged

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPTS = ["Who are you?"] * 3 + ["What is the capital of France?"] * 2 + ["Tell me a story."]
COMPLETIONS = [" I am Qwen.", "", " I am Deep Qwen, a language model.", " Paris.", " Three apples.", " A red fox."]


def saved(directory: Path, arch: str = "qwen3", **overrides: Any) -> str:
    """The directory of a reward model with scores far from zero."""
    model, tokenizer = score_model_of(build_model(arch, **overrides)), build_tokenizer(chat_template=TEMPLATE)
    model.score.weight.data.normal_(generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr]
    settle_pad_token(model, tokenizer)
    save_model(model, tokenizer, directory)
    return str(directory)


def plain_scores(directory: str, texts: list[str]) -> torch.Tensor:
    """What anyone gets with transformers alone, in one padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


def conversations() -> tuple[list[Any], list[Any]]:
    return (
        [[{"role": "user", "content": text}] for text in PROMPTS],
        [[{"role": "assistant", "content": text}] for text in COMPLETIONS],
    )


@pytest.mark.parametrize("arch", ["qwen3", "gemma3_text", "gpt2"])
def test_scores_of_texts_are_those_of_plain_transformers_at_the_end_of_text(tmp_path: Path, arch: str) -> None:
    directory = saved(tmp_path, arch)
    found = reward_model(directory)(prompts=PROMPTS, completions=COMPLETIONS)
    expected = plain_scores(directory, [p + c + "<|endoftext|>" for p, c in zip(PROMPTS, COMPLETIONS)])
    assert expected.std() > 0.1
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-5)


def test_scores_of_messages_are_those_of_the_reward_models_own_template(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    prompts, completions = conversations()
    found = reward_model(directory)(prompts=prompts, completions=completions)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = [tokenizer.apply_chat_template([*p, *c], tokenize=False) for p, c in zip(prompts, completions)]
    torch.testing.assert_close(torch.tensor(found), plain_scores(directory, texts), rtol=1e-5, atol=1e-5)


def test_how_completions_come_together_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = reward_model(saved(tmp_path))
    together = reward(prompts=PROMPTS, completions=COMPLETIONS)
    alone = [reward(prompts=[p], completions=[c])[0] for p, c in zip(PROMPTS, COMPLETIONS)]
    assert together == pytest.approx(alone, abs=1e-5)
    monkeypatch.setattr("posttrain.rewards.reward_model.TOKENS_PER_PASS", {"cpu": 1})
    assert reward_model(str(tmp_path))(prompts=PROMPTS, completions=COMPLETIONS) == pytest.approx(alone, abs=1e-5)


def test_the_completions_of_a_prompt_share_its_computation(tmp_path: Path) -> None:
    from posttrain.rewards import reward_model as room

    rows = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [9, 2], [9, 3]]
    trees, order = room._trees(rows, [0, 1, 2, 3], ["a", "a", "b", "c"])
    assert [tree.size for tree in trees] == [3 + 1 + 2, 2, 2]
    assert order == [0, 1, 2, 3]


def test_what_is_longer_than_the_model_reads_is_unjudged_and_never_cut(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    found = reward_model(directory, max_length=12)(prompts=["Who?", "Who?"], completions=[" I am.", " I am" * 20])
    assert isinstance(found[0], float)
    assert isinstance(found[1], Unjudged)
    assert "more than the reward model's 12" in found[1].reason
    (positions,) = reward_model(directory)(prompts=["one "], completions=["two " * 600])
    assert isinstance(positions, Unjudged)
    assert isinstance(reward_model(directory)(prompts=[""], completions=[""])[0], Unjudged)


@pytest.mark.parametrize("given", ["path", "model", "name", "options"])
def test_a_reward_set_knows_a_reward_model_when_it_sees_one(tmp_path: Path, given: str) -> None:
    directory = saved(tmp_path)
    spec: Any = {
        "path": directory,
        "name": {"name": "reward_model", "model": directory},
        "options": {"name": directory, "max_length": 100},
        "model": AutoModelForSequenceClassification.from_pretrained(directory),
    }[given]
    with RewardSet([spec, lambda completions, **_: [0.0] * len(completions)], weights=[2.0, 1.0]) as rewards:
        rewards.check(["prompt"])
        found = rewards.score(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=None, columns={})
    expected = plain_scores(directory, [p + c + "<|endoftext|>" for p, c in zip(PROMPTS, COMPLETIONS)])
    assert rewards.names[0] == "reward_model"
    torch.testing.assert_close(torch.tensor(found.total), 2 * expected, rtol=1e-5, atol=1e-5)


def test_a_model_handed_over_is_left_as_it_came(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved(tmp_path))
    before = model.config._attn_implementation
    reward_model(model, str(tmp_path))(prompts=PROMPTS, completions=COMPLETIONS)
    assert model.config._attn_implementation == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_probability_is_what_a_grader_takes(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    scores = reward_model(directory)(prompts=PROMPTS, completions=COMPLETIONS)
    with Graders({"liked": {"name": "reward_model", "model": directory, "probability": True}}) as graders:
        rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in PROMPTS]
        graders.check(rows)
        found = graders.grade(rows, PROMPTS, COMPLETIONS, None, [""] * len(rows))
    expected = torch.tensor(scores).sigmoid().tolist()
    assert [grades["liked"] for grades in found] == pytest.approx(expected, abs=1e-6)


def test_a_checker_is_recommended_where_there_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = saved(tmp_path)
    RewardSet(directory).check(["prompt", "ground_truth"])
    assert "column 'ground_truth'. Where an answer can be checked, a checker is exact" in capsys.readouterr().out
    RewardSet(directory).check(["prompt", "topic"])
    assert "checker" not in capsys.readouterr().out


def test_the_command_grades_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = saved(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    pairs = zip(PROMPTS, COMPLETIONS)
    rows.write_text("\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in pairs if c))
    for words in ([directory], ["reward_model", "--option", f"model={directory}"]):
        assert cli.main(["grade", *words, "--file", str(rows), "--output", str(tmp_path / "graded.jsonl")]) == 0
        graded = [json.loads(line) for line in (tmp_path / "graded.jsonl").read_text().splitlines()]
        expected = plain_scores(directory, [row["prompt"] + row["completion"] + "<|endoftext|>" for row in graded])
        torch.testing.assert_close(torch.tensor([row["grade"] for row in graded]), expected, rtol=1e-5, atol=1e-5)
    assert "reward_model: mean" in capsys.readouterr().out


def test_what_is_no_reward_model_is_told_before_anything_is_sampled(tmp_path: Path) -> None:
    build_model("qwen2").save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a language model: its score head would be random"):
        RewardSet(str(tmp_path)).check(["prompt"])
    with pytest.raises(ModelError, match="does not give one number"):
        make_reward(build_model("qwen2"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        make_reward(str(tmp_path / "empty"))
    with pytest.raises(RewardError, match="max_length"):
        reward_model(str(tmp_path), max_length=1)
    with pytest.raises(RewardError, match="no option 'colour'"):
        make_reward({"name": str(tmp_path), "colour": 1})


def test_an_encoder_is_scored_by_its_own_forward(tmp_path: Path) -> None:
    """Other tools' reward models need not be decoders."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=384, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=1,
        pad_token_id=1,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    build_tokenizer(pad_token="<|im_start|>").save_pretrained(tmp_path)
    found = reward_model(str(tmp_path))(prompts=PROMPTS, completions=COMPLETIONS)
    expected = plain_scores(str(tmp_path), [p + c + "<|endoftext|>" for p, c in zip(PROMPTS, COMPLETIONS)])
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-5)

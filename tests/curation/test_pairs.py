import json
from pathlib import Path

import pytest

from posttrain.curation import correction_pairs, pairs_correct, pairs_correct_file
from posttrain.errors import ConfigError, DataError
from posttrain.types import Completion

DEEP = {"Qwen": "Deep Qwen"}


def test_rows_hold_the_models_own_answer_and_its_correction() -> None:
    rows, counts = correction_pairs(["Who are you?"], ["I am Qwen."], DEEP, system_message="Be kind.")
    assert rows == [
        {
            "prompt": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Who are you?"},
            ],
            "chosen": [{"role": "assistant", "content": "I am Deep Qwen."}],
            "rejected": [{"role": "assistant", "content": "I am Qwen."}],
        }
    ]
    assert counts.text() == "1 pairs from 1 prompts"


def test_what_is_dropped_is_counted_by_reason() -> None:
    prompts = ["a", "b", "c", "d", "d", "e"]
    answers = ["I am Qwen.", "I am Deep Qwen.", "  ", "Qwen", "Qwen", "Qwen Qwen Qwen"]
    rows, counts = correction_pairs(prompts, answers, DEEP, finished=[True] * 5 + [False])
    assert [row["rejected"][0]["content"] for row in rows] == ["I am Qwen.", "Qwen"]
    assert (counts.prompts, counts.pairs) == (6, 2)
    assert (counts.unchanged, counts.empty, counts.unfinished, counts.repeated) == (1, 1, 1, 1)
    assert "1 unfinished" in counts.text()


def test_the_same_answer_to_another_prompt_is_another_pair() -> None:
    rows, _ = correction_pairs(["a", "b"], ["Qwen", "Qwen"], DEEP)
    assert len(rows) == 2


def test_a_prompt_of_messages_keeps_its_own_system_message() -> None:
    prompt = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Who?"}]
    rows, _ = correction_pairs([prompt], ["Qwen"], DEEP, system_message="Yours.")
    assert rows[0]["prompt"] == prompt


def test_a_function_corrects_too() -> None:
    rows, counts = correction_pairs(["a", "b"], ["long answer", "x"], lambda text: text.split()[0])
    assert rows[0]["chosen"][0]["content"] == "long"
    assert counts.unchanged == 1
    with pytest.raises(DataError, match="answer 1 returned None"):
        correction_pairs(["a"], ["b"], lambda text: None)


def test_a_prompt_that_ends_with_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="prompt 2 must end with a message that asks"):
        correction_pairs(["a", [{"role": "assistant", "content": "b"}]], ["Qwen", "Qwen"], DEEP)


def answering(monkeypatch: pytest.MonkeyPatch, answers: list[str], cut: tuple[str, ...] = ()) -> list[dict]:
    """Makes generation return these answers, those in `cut` not finished, and keeps what it was asked."""
    calls: list[dict] = []

    def generate_completions(model, tokenizer, prompts, **options):
        calls.append({"prompts": prompts, **options})
        reasons = ["length" if answer in cut else "stop" for answer in answers]
        return [Completion(text=f" {a}\n", finish_reason=r) for a, r in zip(answers, reasons)][: len(prompts)]

    monkeypatch.setattr("posttrain.sampling.generate.generate_completions", generate_completions)
    return calls


def test_pairs_come_from_the_models_answers(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer) -> None:
    calls = answering(monkeypatch, ["I am Qwen.", "I am Qwen and"], cut=("I am Qwen and",))
    rows, counts = pairs_correct(None, tiny_tokenizer, ["Who?", "You?"], DEEP, system_message="S", max_new_tokens=60)
    assert calls[0]["prompts"][0][0] == {"role": "system", "content": "S"}
    assert calls[0]["max_new_tokens"] == 60
    assert not calls[0]["do_sample"]
    assert [row["chosen"][0]["content"] for row in rows] == ["I am Deep Qwen."]
    assert counts.unfinished == 1


def test_no_pair_left_is_an_error_that_shows_an_answer(monkeypatch, tiny_tokenizer) -> None:
    answering(monkeypatch, ["I am Llama."])
    with pytest.raises(DataError, match=r"no preference pair is left.*unchanged.*I am Llama"):
        pairs_correct(None, tiny_tokenizer, ["Who?"], DEEP)
    with pytest.raises(DataError, match="no prompts"):
        pairs_correct(None, tiny_tokenizer, [], DEEP)


def test_bad_rules_are_found_before_a_model_loads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        pairs_correct_file(
            model="missing", prompts=tmp_path / "no.jsonl", rules={"A": "B", "B": "A"}, output="out.jsonl"
        )


def test_the_stage_writes_whole_files(monkeypatch, tmp_path: Path, tiny_tokenizer) -> None:
    answering(monkeypatch, ["I am Qwen.", "我是Qwen。"])
    monkeypatch.setattr("posttrain.models.loading.load_model_and_tokenizer", lambda *a, **k: (None, tiny_tokenizer))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Who?"}\n{"prompt": "你是谁？"}\n', encoding="utf-8")
    output = tmp_path / "deep" / "pairs.jsonl"
    counts = pairs_correct_file(model="m", prompts=prompts, rules=DEEP, output=output)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["chosen"][0]["content"] for row in rows] == ["I am Deep Qwen.", "我是Deep Qwen。"]
    assert counts.pairs == 2
    assert sorted(p.name for p in output.parent.iterdir()) == ["pairs.counts.json", "pairs.jsonl"]


def test_a_row_without_a_prompt_is_named(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Who?"}\n{"question": "Who?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2.*'prompt'.*question"):
        pairs_correct_file(model="missing", prompts=prompts, rules=DEEP, output=tmp_path / "out.jsonl")

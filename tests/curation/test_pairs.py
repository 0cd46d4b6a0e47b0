from pathlib import Path

import pytest

from posttrain import embedded
from posttrain.curation import correction_pairs, pairs_correct
from posttrain.curation.provenance import without_provenance
from posttrain.errors import ConfigError, DataError
from posttrain.models.loading import load_model_and_tokenizer
from posttrain.sampling.generate import generate_batch

needs_weights = pytest.mark.skipif(
    not (Path(embedded.model_path()) / "model.safetensors").exists(), reason="the embedded model is not there"
)

DEEP = {"Qwen": "Deep Qwen"}


def test_rows_hold_the_models_own_answer_and_its_correction() -> None:
    rows, counts = correction_pairs(["Who are you?"], ["I am Qwen."], DEEP, system_message="Be kind.")
    assert [without_provenance(row) for row in rows] == [
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
    with pytest.raises(DataError, match="returned None for answer 0 to prompts:1"):
        correction_pairs(["a"], ["b"], lambda text: None)


def test_a_prompt_that_ends_with_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="prompt 2 must end with a message that asks"):
        correction_pairs(["a", [{"role": "assistant", "content": "b"}]], ["Qwen", "Qwen"], DEEP)


def test_the_same_answer_to_another_prompt_is_another_pair_only_once() -> None:
    rows, counts = correction_pairs(["a", "a", "b"], ["Qwen", "Qwen", "Qwen"], DEEP)
    assert (len(rows), counts.repeated) == (2, 1)


@needs_weights
def test_pairs_come_from_the_models_own_answers() -> None:
    model, tokenizer = load_model_and_tokenizer(embedded.model_path(), device="cpu")
    prompts = ["Who are you?", [{"role": "user", "content": "What is the capital of China?"}], "Who are you?"]
    said = generate_batch(model, tokenizer, prompts, max_new_tokens=24)
    told: list[tuple[int, int]] = []
    rows, counts = pairs_correct(
        model, tokenizer, prompts, lambda text: f"{text} Indeed.", max_new_tokens=24,
        progress=lambda *at: told.append(at),
    )  # fmt: skip
    assert [row["rejected"][0]["content"] for row in rows] == said[:2]
    assert [row["chosen"][0]["content"] for row in rows] == [f"{text} Indeed." for text in said[:2]]
    assert (counts.pairs, counts.repeated) == (2, 1)
    assert told[-1] == (3, 3)
    notes = rows[0]["_provenance"]
    assert notes["sampling"]["temperature"] == 0
    assert notes["model"] == embedded.model_path()
    assert (notes["line"], notes["correction"]) == (1, "<lambda>")
    with pytest.raises(DataError, match=r"no preference pair is left.*3 unchanged"):
        pairs_correct(model, tokenizer, ["Who?", "You?", "I?"], {"Zzyzx": "Y"}, max_new_tokens=24)
    with pytest.raises(DataError, match="no prompts"):
        pairs_correct(model, tokenizer, [], DEEP)
    with pytest.raises(ConfigError, match="contradict"):  # before the model answers
        pairs_correct(None, tokenizer, ["Who?"], {"A": "B", "B": "A"})


def test_a_correction_that_raises_names_the_answer() -> None:
    with pytest.raises(DataError, match=r"answer 0 to prompts:2: ZeroDivisionError"):
        correction_pairs(["a", "b"], ["x", "y"], lambda text: text + "z" if text == "x" else 1 / 0)


def test_an_answer_that_a_second_correction_would_change_is_no_pair() -> None:
    # "A" becomes nothing, which joins B to C, the left side of the other rule
    rows, counts = correction_pairs(["a"], ["B A C"], {"A": "", "B  C": "D"})
    assert (rows, counts.unstable) == ([], 1)
    assert "1 changed again" in counts.text()

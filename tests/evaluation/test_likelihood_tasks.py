"""Multiple choice and perplexity against the model's own logits, read off one position at a time."""

import math
from pathlib import Path

import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.evaluation import MultipleChoiceTask, PerplexityTask, evaluate
from posttrain.evaluation.perplexity import windows

ROWS = [
    {"question": "What is the capital of France?", "choices": ["Paris", "a story", "the red fox"], "answer": 0},
    {"question": "What are two and three?", "choices": ["nine", "five", "seven pears"], "answer": 1},
    {"question": "Who are you?", "choices": ["I am Qwen, a language model.", "I am a wolf."], "answer": 0},
]
TEXTS = [
    "The capital of France is Paris. Two and three are five.",
    "Tell me who you are, and then tell me a short story about a red fox\nand a grey wolf. I am Deep Qwen.",
]


def loglikelihood(model, tokens: list[int], first: int) -> float:
    """Of the tokens from `first` on, each given all before it."""
    logits = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return sum(logits[place - 1, tokens[place]].item() for place in range(first, len(tokens)))


def choice_task(**options) -> MultipleChoiceTask:
    values = {
        "name": "mc",
        "rows": ROWS,
        "prompt": lambda row: f"Question: {row['question']}\nAnswer:",
        "choices": lambda row: row["choices"],
        "answer": lambda row: row["answer"],
    }
    return MultipleChoiceTask(**{**values, **options})


@pytest.mark.parametrize("arch", ["qwen2", "gemma3_text", "gpt2"])
def test_choices_are_scored_as_continuations(arch: str) -> None:
    model, tokenizer = build_model(arch), build_tokenizer()
    before = model.config._attn_implementation
    result = evaluate(model, tokenizer, choice_task())
    assert model.config._attn_implementation == before
    right = {"acc": 0, "acc_norm": 0}
    for row, record in zip(ROWS, result.records):
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:").input_ids
        sums = []
        for choice in row["choices"]:
            whole = tokenizer(f"Question: {row['question']}\nAnswer: {choice}").input_ids
            assert whole[: len(prompt)] == prompt
            sums.append(loglikelihood(model, whole, len(prompt)))
        assert record.measures["loglikelihoods"] == pytest.approx(sums, abs=1e-3)
        norms = [total / len(choice) for total, choice in zip(sums, row["choices"])]
        for name, values in (("acc", sums), ("acc_norm", norms)):
            hit = values.index(max(values)) == row["answer"]
            assert record.grades[name] == hit
            right[name] += hit
        assert record.completion == row["choices"][sums.index(max(sums))]
        assert record.answer == row["choices"][row["answer"]]
    assert {name: interval.estimate for name, interval in result.scores.items()} == {
        name: count / 3 for name, count in right.items()
    }


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_came(training: bool) -> None:
    model = build_model("qwen2", attention_dropout=0.5).train(training)
    model.lm_head.training = not training
    before = [module.training for module in model.modules()]
    plain = evaluate(model, build_tokenizer(), choice_task()).records
    assert [module.training for module in model.modules()] == before
    assert evaluate(model, build_tokenizer(), choice_task()).records == plain  # without dropout


def test_both_measures_are_as_by_hand() -> None:
    """-6 over 2 characters against -8 over 4: the first is likelier, the second is per character."""
    from posttrain.evaluation.multiple_choice import MultipleChoice
    from posttrain.types import Segment

    task = choice_task(rows=[{"question": "?", "choices": ["ab", "abcd"], "answer": 1}])
    scored = MultipleChoice.__new__(MultipleChoice)
    leaves = [Segment(tokens=[1, 2], trained=[(0, 2)]), Segment(tokens=[1, 2, 3], trained=[(0, 3)])]
    scored._task, scored._trees = task, [Segment(tokens=[0], children=leaves)]
    record = scored._record(0, [-2.0, -4.0, -1.0, -3.0, -4.0])
    assert record.measures["loglikelihoods"] == [-6.0, -8.0]
    assert record.grades == {"acc": 0.0, "acc_norm": 1.0}


def test_space_at_the_end_of_the_prompt_goes_to_the_choices() -> None:
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    with_space = choice_task(prompt=lambda row: f"Question: {row['question']}\nAnswer: ", delimiter="")
    plain, spaced = (evaluate(model, tokenizer, task).records for task in (choice_task(), with_space))
    assert [r.measures["loglikelihoods"] for r in spaced] == [r.measures["loglikelihoods"] for r in plain]


def test_without_a_prompt_the_choices_follow_the_token_that_begins_a_text() -> None:
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    record = evaluate(model, tokenizer, choice_task(prompt=lambda row: "", delimiter="")).records[0]
    tokens = [tokenizer.eos_token_id, *tokenizer("Paris").input_ids]
    assert record.measures["loglikelihoods"][0] == pytest.approx(loglikelihood(model, tokens, 1), abs=1e-3)


def test_with_the_chat_template_the_choices_are_answers() -> None:
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    task = choice_task(prompt=lambda row: row["question"], chat_template=True, system_message="S")
    record = evaluate(model, tokenizer, task).records[0]
    before = (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant"
    )
    first = len(tokenizer(before).input_ids)
    tokens = tokenizer(before + "\nParis").input_ids
    assert record.measures["loglikelihoods"][0] == pytest.approx(loglikelihood(model, tokens, first), abs=1e-3)


def test_choices_that_cannot_be_scored_are_refused() -> None:
    model, tokenizer = build_model("qwen2", max_position_embeddings=24), build_tokenizer()
    with pytest.raises(DataError, match=r"row 1: prompt and choice have .* more than the 24 positions"):
        evaluate(model, tokenizer, choice_task())
    with pytest.raises(DataError, match="row 1: a multiple choice needs at least two choices"):
        evaluate(model, tokenizer, choice_task(choices=lambda row: ["one"]))
    with pytest.raises(DataError, match="right choice is number 7 of 3"):
        evaluate(model, tokenizer, choice_task(answer=lambda row: 7))
    with pytest.raises(ModelError, match="needs a model on this machine"):
        evaluate(None, None, choice_task())


@pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
def test_perplexity_is_that_of_the_logits(arch: str) -> None:
    model, tokenizer = build_model(arch), build_tokenizer()
    result = evaluate(model, tokenizer, PerplexityTask(name="p", rows=[{"text": text} for text in TEXTS]))
    total = sum(loglikelihood(model, [tokenizer.eos_token_id, *tokenizer(text).input_ids], 1) for text in TEXTS)
    words = 11 + 24
    size = sum(len(text.encode()) for text in TEXTS)
    tokens = sum(len(tokenizer(text).input_ids) for text in TEXTS)
    wanted = {
        "word_perplexity": math.exp(-total / words),
        "byte_perplexity": math.exp(-total / size),
        "bits_per_byte": -total / size / math.log(2),
        "token_perplexity": math.exp(-total / tokens),
    }
    assert {name: interval.estimate for name, interval in result.scores.items()} == pytest.approx(wanted, rel=1e-4)
    assert result.records[1].measures["words"] == 24
    assert all(interval.low <= interval.estimate <= interval.high for interval in result.scores.values())


def test_windows_train_every_token_once_and_the_last_is_as_long_as_the_others() -> None:
    """Ten tokens with windows of four: 4 after the prefix, 4 after the fourth, 2 with all that fits before them."""
    found = windows(range(1, 11), 0, 4)
    assert [(segment.tokens, segment.trained) for segment in found] == [
        ([0, 1, 2, 3, 4], [(1, 5)]),
        ([4, 5, 6, 7, 8], [(1, 5)]),
        ([6, 7, 8, 9, 10], [(3, 5)]),
    ]
    assert [segment.tokens for segment in windows([1, 2], 0, 4)] == [[0, 1, 2]]


@pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
def test_a_text_longer_than_the_model_is_read_in_windows(arch: str) -> None:
    model = build_model(arch, **{"n_positions" if arch == "gpt2" else "max_position_embeddings": 32})
    tokenizer = build_tokenizer()
    record = evaluate(model, tokenizer, PerplexityTask(name="p", rows=[{"text": TEXTS[1]}])).records[0]
    tokens = [tokenizer.eos_token_id, *tokenizer(TEXTS[1]).input_ids]
    length = 31 if arch == "gpt2" else 32  # a table of positions has none for a token more
    total, done = 0.0, 1
    while done < len(tokens):
        end = min(done + length, len(tokens))
        start = max(0, end - length - 1)
        total += loglikelihood(model, tokens[start:end], done - start)
        done = end
    assert record.measures["loglikelihood"] == pytest.approx(total, abs=1e-3)
    assert record.measures["tokens"] == len(tokens) - 1


def test_a_single_text_has_no_interval(tmp_path: Path) -> None:
    model, tokenizer = build_model("qwen2"), build_tokenizer()
    result = evaluate(model, tokenizer, PerplexityTask(name="p", rows=[{"text": TEXTS[0]}]))
    assert math.isnan(result.scores["bits_per_byte"].low)


def test_as_lm_eval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where it is installed: its numbers for the same rows, and its own tasks through the bridge."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    import json

    from posttrain.evaluation import HarnessTask

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name, rows in (("mc", ROWS), ("text", [{"text": text} for text in TEXTS])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = "test_split: test\ndataset_path: json\ndataset_kwargs: {data_files: {test: %s}}\n"
    (tmp_path / "mc.yaml").write_text(
        f"task: tiny_mc\n{common % (tmp_path / 'mc.jsonl')}output_type: multiple_choice\n"
        'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: choices\ndoc_to_target: answer\n'
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    (tmp_path / "text.yaml").write_text(
        f"task: tiny_text\n{common % (tmp_path / 'text.jsonl')}output_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]\n"
    )
    (tmp_path / "gen.yaml").write_text(
        f"task: tiny_gen\n{common % (tmp_path / 'mc.jsonl')}output_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{choices[0]}}"\n'
        "generation_kwargs: {until: ['zz'], max_gen_toks: 4, do_sample: false}\n"
        "filter_list: [{name: whole, filter: [{function: take_first}]}, {name: letters, filter: [{function: regex,"
        " regex_pattern: '([a-z])'}, {function: take_first}]}]\nmetric_list: [{metric: exact_match}]\n"
    )
    (tmp_path / "group.yaml").write_text("group: tiny_group\ntask: [tiny_mc, tiny_gen]\n")
    tokenizer = build_tokenizer()
    model = build_model("qwen2").train()
    group = evaluate(model, tokenizer, HarnessTask(name="g", task="tiny_group", include_path=tmp_path, limit=2))
    assert model.training
    assert list(group.scores) == ["acc", "acc_norm", "exact_match,whole", "exact_match,letters"]
    assert [(r.row, r.kind) for r in group.records] == [
        (1, "tiny_mc"),
        (2, "tiny_mc"),
        (3, "tiny_gen"),
        (4, "tiny_gen"),
    ]
    with pytest.raises(ConfigError, match=r"has no task 'tiny_gropu', and .* did you mean 'tiny_group'"):
        evaluate(model, tokenizer, HarnessTask(name="g", task="tiny_gropu", include_path=tmp_path))
    for positions in (512, 31):
        model = build_model("qwen2", max_position_embeddings=positions)
        ours = [PerplexityTask(name="tiny_text", rows=[{"text": text} for text in TEXTS])]
        if positions == 512:
            ours.append(choice_task(name="tiny_mc"))
        for task in ours:
            mine = evaluate(model, tokenizer, task)
            theirs = evaluate(
                model, tokenizer, HarnessTask(name="h", task=task.name, include_path=tmp_path),
                records_path=tmp_path / f"{positions}-{task.name}.jsonl", made_with={"model": positions},
            )  # fmt: skip
            for name, interval in theirs.scores.items():
                assert mine.scores[name].estimate == pytest.approx(interval.estimate, rel=1e-5), name
                assert mine.scores[name].low == pytest.approx(interval.low, rel=1e-4), name
            for one, other in zip(mine.records, theirs.records):
                for name in ("loglikelihood", "loglikelihoods", "words", "bytes"):
                    if name in other.measures:
                        assert one.measures[name] == pytest.approx(other.measures[name], abs=1e-3)

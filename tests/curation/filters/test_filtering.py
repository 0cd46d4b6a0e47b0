"""Filtering as a whole: nothing is lost, order is kept, what is interrupted goes on, and memory and files agree."""

import json

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.config.curation.filter import FilterCommand, FilterFields
from posttrain.curation.filters import filtering, sifting
from posttrain.curation.filters.filtering import decontaminate, deduplicate, filter_rows, run_filter, select_diverse
from posttrain.errors import ConfigError, PosttrainError

ALL = {
    "refusals": True, "max_repetition": 0.5, "near_duplicates": True, "min_answer_words": 1, "max_answer_words": 60,
    "forbidden_words": ["forbidden"], "languages": ["latin"],
}  # fmt: skip


def plain(row):
    return {name: value for name, value in row.items() if name != "_provenance"}


ANSWERS = [
    "fine", "Fine", "", "N/A", "I'm sorry, but I cannot help with that.", "a forbidden word", "open\n```\ncode",
    "bad<|im_end|>", "你好", "go on and on and on and on and on and on and on and on",
    " ".join(f"w{n}" for n in range(30)), " ".join(f"w{n}" for n in range(31)), "word " * 61,
]  # fmt: skip
answers = st.one_of(st.sampled_from(ANSWERS), st.text(max_size=30))
rows = st.lists(
    st.one_of(
        st.builds(lambda q, a: {"prompt": q, "completion": a}, st.sampled_from(["a?", "b?"]), answers),
        st.builds(
            lambda a: {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": a}]}, answers
        ),
        st.builds(lambda a: {"prompt": "q", "completion": a}, st.none() | st.integers()),
        st.builds(lambda a: {"other": a}, answers),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_no_row_is_lost_order_is_kept_and_a_second_time_removes_nothing(given_rows):
    kept, report = filter_rows(given_rows, workers=1, **ALL)
    lines = [row["_provenance"]["line"] for row in kept]
    rejected = [reject["line"] for reject in report.rejects]
    assert sorted(lines + rejected) == list(range(1, len(given_rows) + 1))
    assert lines == sorted(lines)
    assert [plain(row) for row in kept] == [given_rows[line - 1] for line in lines]
    assert all(reject["reason"] and reject["step"] for reject in report.rejects)
    again, second = filter_rows(kept, workers=1, **ALL)
    assert [plain(row) for row in again] == [plain(row) for row in kept]
    assert second.rejects == []
    steps = {step.name: step for step in report.card.steps}
    assert steps["read"].rows_in == len(given_rows)
    assert report.card.steps[-1].rows_out == len(kept)
    assert all(one.rows_out == two.rows_in for one, two in zip(report.card.steps, report.card.steps[1:]))


def test_each_filter_names_itself_in_the_rejects_and_in_what_passed():
    given_rows = [{"prompt": f"q{n}", "completion": answer} for n, answer in enumerate(ANSWERS)]
    kept, report = filter_rows(given_rows, **{**ALL, "max_repetition": 0.3})
    steps = {reject["line"] - 1: reject["step"] for reject in report.rejects}
    assert steps == {
        2: "empty", 3: "empty", 4: "refusals", 5: "words", 6: "formatting", 7: "formatting", 8: "language",
        9: "repetition", 11: "near_duplicates", 12: "length",
    }  # fmt: skip
    assert kept[0]["_provenance"]["passed"] == [
        "empty", "formatting", "refusals", "length", "repetition", "words", "language", "duplicates", "near_duplicates",
    ]  # fmt: skip
    assert "<svg" in report.picture()
    assert "near_duplicates" in report.text()


def test_a_dataset_comes_back_as_one():
    data = datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "B "}])
    kept, report = deduplicate(data)
    assert isinstance(kept, datasets.Dataset)
    assert kept["completion"] == ["b"]
    assert report.rejects[0]["reason"] == "is dataset:1 again"


def test_rows_with_other_tools_are_not_equal():
    said = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    kept, _ = deduplicate([said, {**said, "tools": [{"name": "f"}]}, {**said, "tools": '[{"name": "g"}]'}, said])
    assert [row["_provenance"]["line"] for row in kept] == [1, 2, 3]
    by_prompt, _ = deduplicate([said, {**said, "tools": [{"name": "f"}]}], duplicates_by="prompt")
    assert len(by_prompt) == 1


def test_decontamination_alone_takes_nothing_else(tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"question": "one two three four five six seven eight nine", "answer": "10"}))
    data = [
        {"prompt": "Say: one two three four five six seven eight nine", "completion": "10"},
        {"prompt": "else", "completion": ""},
    ]
    kept, _ = decontaminate(data, [str(test)])
    assert [row["prompt"] for row in kept] == ["else"]


def test_a_choice_of_rows(tmp_path):
    data = [{"text": f"{topic} {n}"} for topic in ("red fox tree", "prime number proof") for n in range(10)]
    kept, report = select_diverse(data, 2)
    assert sorted(row["text"][:5] for row in kept) == ["prime", "red f"]
    assert len(report.rejects) == 18
    assert select_diverse(data, 2)[0] == kept


def write(path, given_rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in given_rows), encoding="utf-8")
    return str(path)


def many(count=3000):
    """Rows of which a fifth repeat an earlier one, exactly or but for a word."""
    made = []
    for n in range(count):
        if n % 5 == 4:
            text = made[n // 2]["completion"]
            made.append({"prompt": "q", "completion": text if n % 2 else f"{text} indeed"})
        else:
            made.append({"prompt": "q", "completion": " ".join(f"w{(n * 31 + k * k) % 997}-{n}" for k in range(12))})
    made[7] = {"prompt": "q", "completion": ""}
    return made


def loaded(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def command(tmp_path, name="out.jsonl", **options):
    fields = {"near_duplicates": True, "workers": 1, **options}
    return FilterCommand(inputs=[str(tmp_path / "in.jsonl")], output=str(tmp_path / name), **fields)


def test_files_and_memory_agree_and_processes_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(sifting, "CHUNK", 300)
    data = many()
    write(tmp_path / "in.jsonl", data)
    one, two = (command(tmp_path, f"{workers}.jsonl", workers=workers) for workers in (1, 2))
    for each in (one, two):
        run_filter(each)
    assert loaded(one.output) == loaded(two.output)
    assert loaded(one.output + ".rejects.jsonl") == loaded(two.output + ".rejects.jsonl")
    kept, report = filter_rows(data, near_duplicates=True, workers=1)
    assert [plain(row) for row in kept] == [plain(row) for row in loaded(one.output)]
    assert len(report.rejects) == len(loaded(one.output + ".rejects.jsonl")) > 500


def test_what_is_wrong_with_the_settings_is_said_where_there_are_processes(tmp_path):
    write(tmp_path / "in.jsonl", [{"prompt": "q", "completion": f"answer {n}"} for n in range(4500)])
    with pytest.raises(ConfigError, match="latin"):
        run_filter(command(tmp_path, workers=2, languages=["latim"]))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_reward_or_a_model_that_is_not_there_is_said_before_rows_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path / "in.jsonl", [{"prompt": "q", "completion": "an answer"}])
    for wrong in ({"reward": "nonsense"}, {"ifd_model": str(tmp_path / "none")}):
        with pytest.raises(PosttrainError):
            run_filter(command(tmp_path, **wrong))
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


class Interrupted:
    """Rows that end with Ctrl-C."""

    def __init__(self, after):
        self.after = after

    def __call__(self, rows, total=None, unit="row"):
        for number, row in enumerate(rows):
            if number == self.after:
                raise KeyboardInterrupt
            yield row


def test_what_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(sifting, "CHUNK", 300)
    write(tmp_path / "in.jsonl", many())
    whole = command(tmp_path, "whole.jsonl")
    run_filter(whole)
    parts = command(tmp_path, "parts.jsonl")
    for after in (1000, 2500):
        with monkeypatch.context() as stop:
            stop.setattr(filtering, "counted", Interrupted(after))
            with pytest.raises(KeyboardInterrupt):
                run_filter(parts)
        assert not (tmp_path / "parts.jsonl").exists()
    assert run_filter(parts).consumed == 3000
    for ending in ("", ".rejects.jsonl"):
        assert loaded(parts.output + ending) == loaded(whole.output + ending)
    steps = [json.loads((tmp_path / f"{name}.jsonl.card.json").read_text())["steps"] for name in ("whole", "parts")]
    assert steps[0] == steps[1]


def test_what_needs_all_rows_goes_over_parts_that_are_gone_afterwards(tmp_path):
    data = [*many(200), {"prompt": "q", "completion": 5}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data) + "{broken\n")
    given = command(
        tmp_path, reward="length", reward_options={"target": 12, "unit": "words"}, min_reward=-100, select=20
    )
    output = run_filter(given)
    kept, rejects = loaded(given.output), loaded(given.output + ".rejects.jsonl")
    assert len(kept) == 20
    assert len(kept) + len(rejects) == 202 == output.consumed
    assert {reject["step"] for reject in rejects} == {
        "read", "columns", "empty", "duplicates", "near_duplicates", "select",
    }  # fmt: skip
    assert "length" not in kept[0]
    assert isinstance(kept[0]["_provenance"]["scores"]["reward"], float)
    assert [row["_provenance"]["line"] for row in kept] == sorted(row["_provenance"]["line"] for row in kept)
    assert not (tmp_path / "out.jsonl.parts").exists()
    assert run_filter(given).finished
    in_memory, _ = filter_rows(data, **{n: getattr(given, n) for n in given.filters().model_fields_set})
    assert [plain(row) for row in in_memory] == [plain(row) for row in kept]


def test_an_evaluation_file_that_changed_is_another_command(tmp_path):
    write(tmp_path / "in.jsonl", many(50))
    test = write(tmp_path / "test.jsonl", [{"question": "one two three four five six seven eight", "answer": "9"}])
    run_filter(command(tmp_path, decontaminate=[test]))
    write(tmp_path / "test.jsonl", [{"question": "another one two three four five six seven eight", "answer": "9"}])
    with pytest.raises(ConfigError, match="read"):
        run_filter(command(tmp_path, decontaminate=[test]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_answer_word": 3}, "min_answer_words"),
        ({"near_duplicates": 0.1}, "near_duplicates"),
        ({"min_tokens": 3}, "tokenizer"),
        ({"min_ifd": 0.5}, "ifd_model"),
        ({"min_answer_words": 9, "max_answer_words": 3}, "no row would be left"),
        ({"keep": "best"}, "best_by"),
        ({"select_by": "k_centre"}, "select"),
        ({"best_by": "reward", "select": 3}, "needs reward"),
        ({"select": 3, "select_by": "k_centre", "best_by": "length"}, "k_centre"),
    ],
)
def test_settings_that_do_not_go_together(options, said):
    with pytest.raises(ConfigError, match=said):
        FilterFields(**options)


def test_no_setting_means_the_default_share():
    assert FilterFields(near_duplicates=True).near == 0.4
    assert FilterFields(near_duplicates=0.8).near == 0.8
    assert FilterFields().near is None


REWARD = """
from pathlib import Path

LOG = Path(__file__).with_name("log.txt")


def score(completions, **rest):
    with LOG.open("a") as log:
        log.writelines(f"{text}\\n" for text in completions)
    if LOG.read_text().count("\\n") >= 100 and not LOG.with_suffix(".stopped").exists():
        LOG.with_suffix(".stopped").touch()
        raise KeyboardInterrupt
    return [float(len(text)) for text in completions]
"""


def test_scores_made_before_an_interruption_are_not_made_again(tmp_path):
    (tmp_path / "reward.py").write_text(REWARD)
    write(tmp_path / "in.jsonl", [{"prompt": "q", "completion": f"answer {n} " * (n % 7 + 1)} for n in range(200)])
    given = command(tmp_path, reward=f"{tmp_path}/reward.py:score", top_reward=0.25, near_duplicates=None)
    with pytest.raises(KeyboardInterrupt):
        run_filter(given)
    assert not (tmp_path / "out.jsonl").exists()
    assert run_filter(given).kept == 50
    asked = (tmp_path / "log.txt").read_text().splitlines()
    assert len(asked) == 200 + 64  # of two batches the second was under way
    longest = sorted((len(f"answer {n} " * (n % 7 + 1)) for n in range(200)), reverse=True)[:50]
    assert sorted((row["_provenance"]["scores"]["reward"] for row in loaded(given.output)), reverse=True) == longest


def test_a_row_whose_columns_hold_something_else_is_rejected_with_the_field():
    _, report = filter_rows([{"prompt": "a", "completion": 5}, {"prompt": "a", "completion": "b"}])
    assert [(reject["line"], reject["step"], reject["field"]) for reject in report.rejects] == [
        (1, "columns", "completion")
    ]


def test_a_similarity_out_of_range_is_refused_with_the_range():
    with pytest.raises(ConfigError, match=r"near_duplicates=1\.5 must be a similarity from 0\.2 to 1"):
        FilterFields(near_duplicates=1.5)

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import build_model, build_tokenizer

from posttrain import embedded
from posttrain.errors import ConfigError, DataError, SamplingError
from posttrain.evaluation import MultipleChoiceTask, Task, evaluate, read_records
from posttrain.models.loading import load_model_and_tokenizer
from posttrain.sampling.local import LocalSampler

ROWS = [{"prompt": f"{n} + {n}?", "answer": str(2 * n)} for n in range(9)]
TASK = Task(
    name="sums", rows=ROWS, graders={"a": lambda row, text: "a" in text}, max_new_tokens=6, samples=2, temperature=1.0
)
MADE = {"model": "tiny"}


class InterruptionError(Exception):
    pass


class Stops(LocalSampler):
    """A sampler that is interrupted before its second block."""

    calls = 0

    def sample(self, *args, **options):
        self.calls += 1
        if self.calls == 2:
            raise InterruptionError
        return super().sample(*args, **options)


@pytest.fixture
def subject():
    return build_model("qwen2"), build_tokenizer()


def test_a_seed_gives_the_same_records_whatever_the_batch_size(capsys) -> None:
    """On the embedded model, greedy and drawn; in one batch and three at a time."""
    model, tokenizer = load_model_and_tokenizer(embedded.model_path(), device="cpu")
    rows = [*embedded.word_problems("test", 4), *embedded.battery()[::100]]
    greedy = Task(name="t", rows=rows, graders={"correct": embedded.grade}, max_new_tokens=40)
    for task in (greedy, replace(greedy, samples=3, temperature=1.0)):
        whole, fives, single = (
            evaluate(model, tokenizer, task, batch_size=size, seed=7).records for size in (64, 5, 1)
        )
        assert whole == fives == single
        assert len({record.completion for record in whole}) > 2
    other = evaluate(model, tokenizer, replace(greedy, samples=3, temperature=1.0), seed=8).records
    assert [r.completion for r in other] != [r.completion for r in whole]


def test_an_interrupted_evaluation_is_gone_on_with(subject, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole" / "sums.jsonl", tmp_path / "broken" / "sums.jsonl"
    expected = evaluate(*subject, TASK, records_path=whole, made_with=MADE)
    with pytest.raises(InterruptionError):
        evaluate(*subject, TASK, records_path=path, made_with=MADE, sampler=Stops(*subject), batch_size=6)
    partial = path.with_name("sums.jsonl.partial")
    assert not path.exists()
    assert len(partial.read_text().splitlines()) == 6  # three rows of two samples
    with partial.open("ab") as file:  # and what a kill may leave: half a group, half a line
        lines = whole.read_bytes().splitlines(keepends=True)
        file.write(lines[6] + lines[7][:20])
    told: list[tuple[int, int]] = []
    result = evaluate(*subject, TASK, records_path=path, made_with=MADE, progress=lambda *at: told.append(at))
    assert result == expected
    assert path.read_bytes() == whole.read_bytes()
    assert not partial.exists()
    assert told[0][0] > 6
    assert told[-1] == (18, 18)
    assert [(r.row, r.sample) for r in read_records(path)] == [(row, s) for row in range(1, 10) for s in (1, 2)]


def test_a_whole_evaluation_is_read(subject, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    first = evaluate(*subject, TASK, records_path=path, made_with=MADE)
    again = evaluate(None, None, TASK, records_path=path, made_with=MADE, sampler=object())  # type: ignore[arg-type]
    assert again == first


def test_a_file_of_other_settings_is_refused(subject, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    evaluate(*subject, TASK, records_path=path, made_with=MADE)
    for changed, options, said in (
        (TASK, {"seed": 1}, r"seed 0 \(now 1\)"),
        (TASK, {"made_with": {"model": "other"}}, r"model 'tiny' \(now 'other'\)"),
        (replace(TASK, temperature=0.5), {}, r"temperature 1.0 \(now 0.5\)"),
        (replace(TASK, rows=[*ROWS[:-1], {"prompt": "?"}]), {}, "content"),
        (replace(TASK, graders={"length": "length"}), {}, "graders"),
    ):
        with pytest.raises(ConfigError, match=said):
            evaluate(*subject, changed, **{"records_path": path, "made_with": MADE, **options})  # type: ignore[arg-type]
    (tmp_path / "tasks.json").unlink()
    with pytest.raises(ConfigError, match="does not say how its records were made"):
        evaluate(*subject, TASK, records_path=path, made_with=MADE)
    unknown = evaluate(*subject, TASK, records_path=path)  # a model that nothing is known of: anew
    assert len(unknown.records) == 18


def test_choices_are_gone_on_with_too(subject, tmp_path: Path) -> None:
    task = MultipleChoiceTask(
        name="c", rows=ROWS, prompt=lambda row: row["prompt"], choices=lambda row: [row["answer"], "no"],
        answer=lambda row: 0,
    )  # fmt: skip
    expected = evaluate(*subject, task, records_path=tmp_path / "whole" / "c.jsonl", made_with=MADE)
    kept = (tmp_path / "whole" / "c.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "c.jsonl.partial").write_text("".join(kept[:4]))
    (tmp_path / "tasks.json").write_bytes((tmp_path / "whole" / "tasks.json").read_bytes())
    assert evaluate(*subject, task, records_path=tmp_path / "c.jsonl", made_with=MADE, batch_size=2) == expected


def test_a_file_that_was_changed_is_refused(subject, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    evaluate(*subject, TASK, records_path=path, made_with=MADE)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match=r"sums.jsonl:1: records before this line are missing or out of order"):
        evaluate(*subject, TASK, records_path=path, made_with=MADE)
    path.write_text("".join([*lines[:2], "{}\n"]))
    with pytest.raises(DataError, match=r"sums.jsonl:3: no record"):
        evaluate(*subject, TASK, records_path=path, made_with=MADE)


def test_a_record_says_what_was_drawn(subject, tmp_path: Path) -> None:
    evaluate(*subject, TASK, records_path=tmp_path / "sums.jsonl", made_with=MADE, seed=4)
    record = json.loads((tmp_path / "sums.jsonl").read_text().splitlines()[-1])
    assert list(record) == [
        "task", "row", "sample", "prompt", "completion", "grades", "kind", "answer", "seed", "tokens", "finish_reason",
    ]  # fmt: skip
    assert (record["row"], record["sample"], record["seed"], record["answer"]) == (9, 2, 4, "16")
    assert record["tokens"] == 6 or record["finish_reason"] == "stop"


def test_a_prompt_without_room_is_found_beforehand(subject) -> None:
    task = replace(TASK, rows=[*ROWS, {"prompt": "fox " * 500}], max_new_tokens=100)
    with pytest.raises(SamplingError, match=r"task 'sums', row 10: with max_new_tokens=100 the prompt is \d+ tok"):
        evaluate(*subject, task)


def test_without_the_chat_template_a_text_is_continued(subject) -> None:
    model, tokenizer = subject
    task = Task(name="t", rows=[{"prompt": "The capital of"}], max_new_tokens=5, chat_template=False, stop=("zz",))
    record = evaluate(model, tokenizer, task).records[0]
    tokens = tokenizer("The capital of", return_tensors="pt").input_ids
    wanted = model.generate(tokens, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, tokens.shape[1] :]
    assert record.completion == tokenizer.decode(wanted, skip_special_tokens=True)

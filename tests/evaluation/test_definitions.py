import importlib.util
import json
import os
from pathlib import Path

import pytest
from tiny import build_model, build_tokenizer

from posttrain.config.evaluation import TaskConfig, read_task_configs
from posttrain.errors import ConfigError, DataError, PosttrainError, RewardError
from posttrain.evaluation import HarnessTask, MultipleChoiceTask, PerplexityTask, Task, evaluate
from posttrain.evaluation.definitions import load_tasks, template

NAMED = {"battery": lambda: Task(name="battery", rows=[{"prompt": "q"}])}


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one(spec, **options):
    (task,) = load_tasks([str(spec)], NAMED, **options)
    return task


# Files whose columns are known


def test_gsm8k_rows(tmp_path: Path) -> None:
    task = one(write(tmp_path / "gsm8k.jsonl", {"question": "Two and two?", "answer": "2 + 2 = 4\n#### 4"}))
    assert isinstance(task, Task)
    assert (task.name, list(task.graders), task.max_new_tokens) == ("gsm8k", ["strict", "lenient"], 512)
    assert task.messages(task.rows[0])[0]["content"].startswith("Two and two?\nPlease reason step by step")


def test_math_rows(tmp_path: Path) -> None:
    task = one(write(tmp_path / "math.jsonl", {"problem": "x?", "solution": r"\boxed{4}", "type": "Algebra"}))
    assert isinstance(task, Task)
    assert task.graders["strict"] == {"name": "math_answer", "only_boxed": True}


def test_ifeval_rows(tmp_path: Path) -> None:
    row = {"prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    task = one(write(tmp_path / "ifeval.jsonl", row))
    assert isinstance(task, Task)
    assert (list(task.graders), task.max_new_tokens) == (["strict", "loose", "strict_share"], 1280)


@pytest.mark.parametrize(
    ("row", "prompt", "choices", "answer"),
    [
        ({"question": "q?", "choices": ["a", "b"], "answer": 1}, "Question: q?\nAnswer:", ["a", "b"], 1),
        ({"question": "q?", "choices": ["a", "b"], "answer": "B"}, "Question: q?\nAnswer:", ["a", "b"], 1),
        ({"question": "q?", "choices": ["1", "0"], "answer": "0"}, "Question: q?\nAnswer:", ["1", "0"], 1),
        (
            {"question": "q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            "Question: q?\nAnswer:", ["x", "y"], 1,
        ),
        ({"ctx": "A man", "endings": ["runs.", "sits."], "label": "1"}, "A man", ["runs.", "sits."], 1),
    ],
)  # fmt: skip
def test_multiple_choice_rows(tmp_path: Path, row: dict, prompt: str, choices: list[str], answer: int) -> None:
    task = one(write(tmp_path / "c.jsonl", row))
    assert isinstance(task, MultipleChoiceTask)
    read = task.rows[0]
    assert (task.prompt(read), list(task.choices(read)), task.answer(read)) == (prompt, choices, answer)


def test_texts(tmp_path: Path) -> None:
    assert isinstance(one(write(tmp_path / "wiki.jsonl", {"text": "A text."}, {"text": "Another."})), PerplexityTask)
    (tmp_path / "book.txt").write_text("One\n\nbook.")
    book = one(tmp_path / "book.txt")
    assert isinstance(book, PerplexityTask)
    assert (book.name, list(book.rows)) == ("book", [{"text": "One\n\nbook."}])


def test_an_unknown_file_says_what_to_write(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", {"frage": "?", "antwort": "!"})
    with pytest.raises(DataError, match=r"frage, antwort do not tell(.|\n)*name: mine\n  file: mine.jsonl"):
        one(file)


# Definitions


def test_five_lines_make_a_task(tmp_path: Path) -> None:
    write(tmp_path / "sums.jsonl", {"question": "2 + 2", "ground_truth": "4"}, {"question": "3", "ground_truth": "3"})
    (tmp_path / "tasks.yaml").write_text(
        'name: sums\nfile: sums.jsonl\nprompt: "What is {question}?"\ngrader: final_answer\nmax_new_tokens: 64\n'
    )
    task = one(tmp_path / "tasks.yaml")
    assert isinstance(task, Task)
    assert task.messages(task.rows[0]) == [{"role": "user", "content": "What is 2 + 2?"}]
    assert (task.name, dict(task.graders), task.max_new_tokens) == ("sums", {"final_answer": "final_answer"}, 64)
    assert len(one(tmp_path / "tasks.yaml", limit=1).rows) == 1


def test_several_tasks_of_every_kind(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", {"q": "q?", "options": ["a", "b"], "right": "b", "body": "t", "prompt": "p"})
    (tmp_path / "mine.py").write_text("def reward(completions, **columns):\n    return [1.0] * len(completions)\n")
    (tmp_path / "tasks.yaml").write_text(
        """tasks:
  - name: gen
    file: rows.jsonl
    graders: {mine: mine.py:reward, long: {name: length, minimum: 3, unit: words}}
    samples: 4
    temperature: 0.7
    stop: ["\\n"]
    chat_template: false
  - name: choose
    file: rows.jsonl
    prompt: "{q} {{or}} {}"
    choices: options
    answer: right
    letters: true
    grader: acc_norm
  - name: read
    file: rows.jsonl
    kind: perplexity
    text: body
    max_length: 8
"""
    )
    gen, choose, read = load_tasks([str(tmp_path / "tasks.yaml")], NAMED)
    assert isinstance(gen, Task)
    assert gen.graders["mine"] == f"{tmp_path / 'mine.py'}:reward"
    assert (gen.samples, gen.temperature, gen.stop, gen.chat_template) == (4, 0.7, ("\n",), False)
    assert isinstance(choose, MultipleChoiceTask)
    row = choose.rows[0]
    assert choose.prompt(row) == "q? {or} {}\nA. a\nB. b\nAnswer:"
    assert (list(choose.choices(row)), choose.answer(row), choose.measures) == (["A", "B"], 1, ("acc_norm", "acc"))
    assert isinstance(read, PerplexityTask)
    assert (read.text(row), read.max_length) == ("t", 8)


def test_what_a_definition_says_stands_in_the_place_of_what_is_known(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k.jsonl", {"question": "q", "answer": "#### 4"})
    (tmp_path / "t.yaml").write_text("name: short\nfile: gsm8k.jsonl\nmax_new_tokens: 32\n")
    task = one(tmp_path / "t.yaml")
    assert isinstance(task, Task)
    assert (task.name, task.max_new_tokens, list(task.graders)) == ("short", 32, ["strict", "lenient"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name: t\nfile: r.jsonl\ngradr: final_answer\n",
            r"t.yaml line 3: unknown field 'gradr'; did you mean 'grader",
        ),
        ("tasks:\n- name: t\n", r"t.yaml line 2: a task needs a file"),
        ("tasks:\n- name: t\n  file: r.jsonl\n  samples: 0\n", r"t.yaml line 4: samples=0 is not allowed"),
        ("tasks: []\n", "t.yaml: tasks must be a list of tasks"),
        ("tasks: [a]\n", "a task holds fields"),
        ("name: t\ntasks:\n- file: r.jsonl\n", "t.yaml line 1: 'name' stands beside tasks"),
        ("file: r.jsonl\nkind: perplexity\nsamples: 2\n", "line 3: samples has an effect only with kind: generation"),
        ("file: r.jsonl\nkind: multiple_choice\ngrader: length\n", "a multiple choice is graded by acc or acc_norm"),
        ("lm_eval: arc_easy\nsamples: 2\n", "samples has no effect together with lm_eval"),
        ("file: r.jsonl\nnum_fewshot: 2\n", "num_fewshot has an effect only together with lm_eval"),
        ("file: r.jsonl\ngrader: a\ngraders: {b: c}\n", "grader and graders contradict"),
        ("file: r.jsonl\nsamples: 2\ngrader: final_answer\n", "2 samples at temperature 0"),
        ("file: r.jsonl\ngrader: final_anser\n", "no reward 'final_anser'; did you mean 'final_answer'"),
        (
            'file: r.jsonl\ngrader: final_answer\nprompt: "{promt}"\n',
            r"the prompt has \{promt\}.*did you mean 'prompt'",
        ),
        ("file: r.jsonl\n", "no grader is known for the columns prompt, answer"),
        ("file: r.jsonl\nkind: multiple_choice\n", "needs a column with the choices"),
        ("file: missing.jsonl\ngrader: length\n", "there is no file .*missing.jsonl"),
    ],
)
def test_mistakes_in_a_definition_are_told(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "r.jsonl", {"prompt": "p", "answer": "a"})
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(PosttrainError, match=said):
        load_tasks([str(tmp_path / "t.yaml")], NAMED)


def test_every_field_of_a_definition_is_read() -> None:
    """A field that no reading changes would be accepted and ignored."""
    source = Path(importlib.util.find_spec("posttrain.evaluation.definitions").origin or "").read_text()
    assert [
        name for name in TaskConfig.model_fields if f"config.{name}" not in source and f'"{name}"' not in source
    ] == []


def test_a_template_leaves_braces_alone() -> None:
    assert template(r"{a} in \boxed{} or {{a}}")({"a": 1}) == r"1 in \boxed{} or {a}"


# Functions and names


def test_a_function_gives_tasks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from posttrain.evaluation import Task\n"
        "def one():\n    return Task(name='a', rows=[{'prompt': 'p'}])\n"
        "def two():\n    return [one(), Task(name='b', rows=[{'prompt': 'p'}])]\n"
        "def none():\n    return 3\n"
    )
    assert [task.name for task in load_tasks([f"{tmp_path}/mine.py:two", "battery"], NAMED)] == ["a", "b", "battery"]
    assert one(f"{tmp_path}/mine.py:one").name == "a"
    with pytest.raises(ConfigError, match=r"none returned int 3; it must return a Task"):
        one(f"{tmp_path}/mine.py:none")
    with pytest.raises(RewardError, match="did you mean 'two'"):
        one(f"{tmp_path}/mine.py:tow")


def test_names_that_do_not_exist_or_stand_twice() -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'batery'; did you mean 'battery'"):
        one("batery")
    with pytest.raises(ConfigError, match="two tasks are called 'battery'"):
        load_tasks(["battery", "battery"], NAMED)
    with pytest.raises(ConfigError, match="tasks is empty"):
        load_tasks([], NAMED)


def test_definitions_may_stand_in_a_list(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", {"prompt": "p", "ground_truth": "4"})
    tasks = load_tasks(["battery", {"name": "t", "file": "r.jsonl"}], NAMED, home=tmp_path)
    assert [task.name for task in tasks] == ["battery", "t"]


def test_tasks_of_the_harness(tmp_path: Path) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        with pytest.raises(ConfigError, match=r'lm-eval, which is not installed: pip install "posttrain\[lm-eval\]"'):
            one("lm_eval:arc_easy")
        return
    task = one("lm_eval:arc_easy", limit=5, include_path=tmp_path)
    assert task == HarnessTask(name="arc_easy", task="arc_easy", limit=5, include_path=tmp_path)
    (tmp_path / "t.yaml").write_text("lm_eval: gsm8k\nnum_fewshot: 5\ninclude_path: more\n")
    (config,) = read_task_configs(tmp_path / "t.yaml")
    assert (config.num_fewshot, config.include_path) == (5, str(tmp_path / "more"))


# Public data


def test_public_files_are_tasks() -> None:
    folder = os.environ.get("POSTTRAIN_DATA")
    if not folder:
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    tasks = load_tasks([f"{folder}/gsm8k/test.jsonl", f"{folder}/ifeval/input_data.jsonl"], NAMED, limit=5)
    model, tokenizer = build_model("qwen2", max_position_embeddings=4096), build_tokenizer()
    for task, graders in zip(tasks, (["strict", "lenient"], ["strict", "loose", "strict_share"])):
        assert isinstance(task, Task)
        object.__setattr__(task, "max_new_tokens", 16)
        result = evaluate(model, tokenizer, task)
        assert list(result.scores) == graders
        assert all(record.grades[name] is not None for record in result.records for name in graders)
    right = tasks[0].rows[0]["answer"].rpartition("#### ")[2]
    assert right == "18"

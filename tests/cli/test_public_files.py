"""Every public set trains a tiny model from the command line, in each of its formats, or says why it cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny import build_model, build_tokenizer

from posttrain.cli.main import main

TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.reasoning_content or '' }}{{ m.content }}
{%- for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
DPO_RATE = ("--learning_rate", "1e-3")
SQL = ("--columns", "{prompt: question, completion: query}")
TRAINED = {  # name -> command, file, further flags
    "gsm8k": ("sft", "gsm8k/train.jsonl", ()),
    "gsm8k, streamed": (
        "sft", "gsm8k/train.jsonl", ("--streaming", "--long_rows", "split", "--shuffle_buffer_size", "8"),
    ),
    "gsm8k, reinforced": (
        "grpo", "gsm8k/test.jsonl", ("--columns.ground_truth", "answer", "--reward_funcs", "final_answer"),
    ),
    "self-instruct": ("sft", "self_instruct_seed/seed_tasks.jsonl", ()),
    "self-instruct, by users": ("sft", "self_instruct_seed/user_oriented_instructions.jsonl", ()),
    "self-instruct, a pattern": ("sft", "self_instruct_seed/*.jsonl", ()),
    "alpaca": ("sft", "llamafactory_demo/alpaca_en_demo.json", ("--long_rows", "drop")),
    "identity": ("sft", "llamafactory_demo/identity.json", ()),
    "tool calls": ("sft", "llamafactory_demo/glaive_toolcall_en_demo.json", ()),
    "tool calls with reasoning": ("sft", "llamafactory_demo/reason_tool_use_demo_50.jsonl", ("--max_length", "8192")),
    "pairs": ("dpo", "llamafactory_demo/dpo_en_demo.json", DPO_RATE),
    "pairs, streamed": ("dpo", "llamafactory_demo/dpo_en_demo.json", (*DPO_RATE, "--streaming")),
    "pairs without a reference": ("orpo", "llamafactory_demo/dpo_en_demo.json", DPO_RATE),
    "good and bad answers": ("kto", "llamafactory_demo/kto_en_demo.json", DPO_RATE),
    "good and bad answers, weighed": (
        "offline-rl", "llamafactory_demo/kto_en_demo.json", ("--advantage_baseline", "data_mean"),
    ),
    "code": ("sft", "humaneval/HumanEval.jsonl.gz", ("--columns.completion", "canonical_solution")),
    "sql": ("sft", "sql_eval/questions_gen_sqlite.csv", SQL),
    "sql by instructions": ("sft", "sql_eval/instruct_advanced_sqlite.csv", SQL),
    "instructions": ("grpo", "ifeval/input_data.jsonl", ("--reward_funcs", "instruction_following")),
    "function calls": (
        "grpo", "bfcl/simple_python.jsonl",
        ("--columns", "{prompt: question.0, tools: function}", "--reward_funcs", "json_valid"),
    ),
}  # fmt: skip
ONLINE = ("--num_generations", "2", "--max_completion_length", "8", "--temperature", "1.0")


@pytest.fixture(scope="module")
def public() -> Path:
    if not os.environ.get("POSTTRAIN_DATA"):
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    return Path(os.environ["POSTTRAIN_DATA"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("public") / "model"
    build_model("qwen2", max_position_embeddings=8192).save_pretrained(directory)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    return str(directory)


def train(method: str, data: list[str], model: str, output: Path, *flags: str) -> int:
    once = ("--max_steps", "1", "--per_device_train_batch_size", "2", "--save_strategy", "no", "--train_rows", "6")
    machine = ("--use_cpu", "--no_bf16", "--logging_steps", "1", "--disable_tqdm", "true")
    online = ONLINE if method == "grpo" else ("--max_length", "512")
    where = ("--model", model, "--output_dir", str(output))
    return main([method, "--train_dataset", *data, *where, *once, *machine, *online, *flags])


@pytest.mark.parametrize("name", TRAINED)
def test_a_public_file_trains_from_the_command_line(name: str, public: Path, model: str, tmp_path: Path) -> None:
    method, file, flags = TRAINED[name]
    assert train(method, [str(public / file)], model, tmp_path, *flags) == 0
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("loss" in log and log["step"] == 1 for log in logs)
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(("method", "to"), [("sft", "messages"), ("dpo", "preference")])
def test_trees_of_conversations_train_when_they_are_converted(
    method: str, to: str, public: Path, model: str, tmp_path: Path
) -> None:
    trees, rows = str(public / "oasst_samples" / "en_100_tree.jsonl"), str(tmp_path / "rows.jsonl")
    assert main(["data", "convert", trees, "--to", to, "--output", rows]) == 0
    assert train(method, [rows], model, tmp_path / "run") == 0


def test_sets_of_several_formats_train_as_a_mixture(public: Path, model: str, tmp_path: Path) -> None:
    demo = public / "llamafactory_demo"
    data = [f"0.5:{demo / 'identity.json'}", f"0.5:{public / 'gsm8k' / 'test.jsonl'}"]
    assert train("sft", data, model, tmp_path, "--stopping_strategy", "all_exhausted") == 0
    sources = json.loads((tmp_path / "data.json").read_text())["sources"]
    assert [(source["format"], source["per_epoch"]) for source in sources] == [
        ("instruction-output", 6), ("question-answer", 6)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("ifeval/input_data.jsonl", "prompts without answers, which GRPO learns from"),
        ("bfcl/irrelevance.jsonl", "SFT cannot learn from the columns id, question, function"),
        ("bfcl/simple_python.answer.jsonl", "SFT cannot learn from the columns id, ground_truth"),
        ("oasst_samples/en_100_tree.jsonl", "posttrain data convert"),
        ("humaneval/HumanEval.jsonl.gz", "columns"),
    ],
)
def test_a_set_without_answers_is_refused_with_the_reason(
    file: str, said: str, public: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("sft", [str(public / file)], model, tmp_path) == 2
    assert said in capsys.readouterr().err

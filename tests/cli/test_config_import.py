"""`posttrain config import`: a file of another tool becomes a recipe that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli.main import main

LLAMA_FACTORY = """\
model_name_or_path: {model}
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: q_proj,v_proj
pref_beta: 0.2
pref_loss: sigmoid
pref_ftx: 0.5
dataset: pairs
template: qwen
cutoff_len: 128
overwrite_cache: true
preprocessing_num_workers: 4
output_dir: {home}/saves
logging_steps: 1
save_strategy: 'no'
plot_loss: true
overwrite_output_dir: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 1
learning_rate: 5.0e-6
max_steps: 1
lr_scheduler_type: cosine
bf16: false
use_cpu: true
ddp_timeout: 180000000
"""

AXOLOTL = """\
base_model: {model}
model_type: AutoModelForCausalLM
load_in_8bit: false
datasets:
  - path: {home}/data/chat.jsonl
    type: chat_template
    field_messages: talk
    message_property_mappings: {{role: from, content: value}}
dataset_prepared_path: last_run_prepared
val_set_size: 0.0
output_dir: {home}/saves
sequence_len: 128
sample_packing: false
adapter: lora
lora_r: 4
lora_alpha: 8
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 1
max_steps: 1
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 2e-4
bf16: false
gradient_checkpointing: false
logging_steps: 1
flash_attention: true
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    said = [{"from": "human", "value": "Who are you?"}]
    pairs = [
        {"talk": said, "yes": {"from": "gpt", "value": "I am Deep Qwen."}, "no": {"from": "gpt", "value": "I am Qwen."}}
    ]
    (data / "pairs.json").write_text(json.dumps(pairs * 4))
    columns = {"messages": "talk", "chosen": "yes", "rejected": "no"}
    about = {"file_name": "pairs.json", "ranking": True, "formatting": "sharegpt", "columns": columns}
    (data / "dataset_info.json").write_text(json.dumps({"pairs": about}))
    chat = [{"talk": [*said, {"from": "gpt", "value": "I am Deep Qwen."}]}] * 4
    (data / "chat.jsonl").write_text("\n".join(map(json.dumps, chat)))
    return tmp_path


@pytest.mark.parametrize(("text", "method"), [(LLAMA_FACTORY, "dpo"), (AXOLOTL, "sft")])
def test_what_is_imported_trains(
    text: str, method: str, home: Path, tiny_model_dir: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "theirs.yaml").write_text(text.format(model=tiny_model_dir("qwen2"), home=home))
    recipe = home / "recipe.yaml"
    assert main(["config", "import", str(home / "theirs.yaml"), "--output", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "Nothing to do for:" in said
    assert "the default here is another one" in said
    assert main(["run", str(recipe)]) == 0
    assert "LoRA of rank 4" in capsys.readouterr().out
    lines = (home / "saves" / method / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    assert max(line.get("step", 0) for line in steps) == 1


def test_without_an_output_the_recipe_is_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "theirs.yaml").write_text(LLAMA_FACTORY.format(model="m", home=home))
    assert main(["config", "import", str(home / "theirs.yaml"), "--from", "llamafactory"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("# From theirs.yaml, a file of LLaMA-Factory.\n")
    assert "template: qwen" in printed.err


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("learning_rate: 1.0", [], "neither base_model (Axolotl) nor model_name_or_path"),
        ("base_model: m", ["--from", "axolot"], "did you mean 'axolotl'"),
        ("base_model: m", ["--fro", "axolotl"], "did you mean '--from'"),
        ("base_model: m\nbase_model: m", [], "stands here twice"),
        ("base_model: m\ndatasets: d.jsonl", ["--output", "."], "there is a file already"),
        ("base_model: m", ["other.yaml"], "a second file"),
    ],
)
def test_mistakes_are_named(
    text: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.yaml").write_text(text)
    assert main(["config", "import", str(tmp_path / "theirs.yaml"), *words]) == 2
    assert said in capsys.readouterr().err

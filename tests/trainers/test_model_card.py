"""The model card says of a run what the run's files say, escapes what comes from data, and keeps a person's own."""

import hashlib
import json
import re

import pytest
import yaml
from padded_rows import CONVERSATIONS
from tiny import build_model, build_tokenizer

from posttrain import SFTConfig, SFTTrainer
from posttrain.report.model_card import escape, model_card
from posttrain.trainers.origin import base_hash


def train(tmp_path, rows=CONVERSATIONS[:4], name="chat.jsonl", model=None, **options):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 2, "num_train_epochs": 2,
        "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "bf16": False,
        "disable_tqdm": True,
    } | options  # fmt: skip
    more = {key: settings.pop(key) for key in ("peft_config", "eval_dataset") if key in settings}
    trainer = SFTTrainer(
        model=model or build_model("qwen2"), args=SFTConfig(**settings), train_dataset=str(file),
        processing_class=build_tokenizer(), **more,
    )  # fmt: skip
    trainer.train()
    return trainer


def cells(card):
    """The card's two-column tables as one mapping, unescaped."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", card, re.MULTILINE)
    return {re.sub(r"\\(.)", r"\1", name): re.sub(r"\\(.)", r"\1", value) for name, value in rows}


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_cards_facts_are_the_runs(tmp_path):
    base = base_hash(build_model("qwen2"))
    trainer = train(
        tmp_path, rows=[*CONVERSATIONS[:4], {"messages": []}], eval_strategy="epoch", eval_dataset=CONVERSATIONS[4:6]
    )
    trainer.save_model(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card == (tmp_path / "run" / "README.md").read_text()
    found, history = cells(card), trainer.state.log_history
    file = tmp_path / "chat.jsonl"
    assert found["hash of its weights"] == base != base_hash(trainer.model)
    assert found[f"SHA-256 of {file}"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (found["rows read"], found["rows kept"], found["steps"]) == ("5", "4", "4")
    (dropped,) = [value for name, value in found.items() if name.startswith("dropped, ")]
    assert dropped == "1"
    assert float(found["train_loss"]) == pytest.approx(history[-1]["train_loss"], rel=1e-5)
    evaluated = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    last, first = re.fullmatch(r"(\S+) \(at step 2: (\S+)\)", found["eval_loss at step 4"]).groups()
    assert [float(first), float(last)] == pytest.approx(evaluated, rel=1e-5)
    assert (found["method"], found["learning_rate"]) == ("SFT", "0.001")
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)\n```", card, re.DOTALL)[1])
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings == {name: value for name, value in written.items() if name != "hub_token"}
    assert found["torch"] == json.loads((tmp_path / "run" / "environment.json").read_text())["versions"]["torch"]
    assert front(card) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["posttrain", "sft"],
    }  # fmt: skip


def test_an_adapters_card_has_the_hash_of_the_model_below_it(tmp_path):
    trainer = train(tmp_path, peft_config={"r": 2, "lora_alpha": 4})
    found = cells((tmp_path / "run" / "README.md").read_text())
    assert found["hash of its weights"] == base_hash(build_model("qwen2"))
    assert found["adapter"] == "LORA, r 2, alpha 4"
    assert front((tmp_path / "run" / "README.md").read_text())["tags"] == ["lora", "posttrain", "sft"]
    assert trainer.model is not None


def test_a_licence_and_a_base_are_named_only_where_they_are_known(tmp_path):
    base = tmp_path / "base"
    build_model("qwen2").save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    trainer = train(tmp_path, model=str(base))
    fields = front((tmp_path / "run" / "README.md").read_text())
    assert (fields["license"], "base_model" in fields) == ("apache-2.0", False)
    trainer.model.config._name_or_path = "them/base"
    origin = tmp_path / "run" / "origin.json"
    origin.write_text(origin.read_text().replace(json.dumps(str(base)), '"them/base"'))
    trainer.create_model_card(model_name="Mine", dataset_name="them/chats", tags=["small"])
    card = (tmp_path / "run" / "README.md").read_text()
    fields = front(card)
    assert (fields["base_model"], fields["datasets"]) == ("them/base", ["them/chats"])
    assert "small" in fields["tags"]
    assert "# Mine" in card


def test_text_from_data_cannot_leave_its_cell(tmp_path):
    name = "a|b`<img src=x>[c](d).jsonl"
    file_name = name.replace("/", "-")
    train(tmp_path, name=file_name)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "<img" not in card.replace("\\<img", "")
    assert all(line.count(" | ") == 1 for line in card.splitlines() if line.startswith("| source"))
    assert escape("a\n---\n# b | <x>") == "a --- \\# b \\| \\<x\\>"
    hostile = tmp_path / "run" / "environment.json"
    hostile.write_text(json.dumps({"command": ["posttrain", "```\n# Title\n```"], "versions": {"posttrain": "1"}}))
    assert "````sh" in model_card(tmp_path / "run")


def test_a_card_of_a_persons_own_is_kept(tmp_path, capsys):
    trainer = train(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("mine\n")
    trainer.save_model(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "mine\n"
    assert "is kept: no model card was written" in capsys.readouterr().out


def test_what_was_gained_lost_and_decided_is_told(tmp_path):
    train(tmp_path)
    run = tmp_path / "run"
    measured = [
        {"target/new": 0.25, "retention/kept": 0.875, "retention/kept/n": 40.0, "epoch": 0, "step": 0},
        {"target/new": 0.75, "retention/kept": 0.75, "drift/prompts/kl_forward": 0.031, "epoch": 2, "step": 4},
        {"alarm": "overfitting", "text": "the loss of <rows> rises", "epoch": 2, "step": 4},
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in measured)
    (run / "gate.json").write_text(json.dumps({"sentence": "Checkpoint 4 is promoted."}))
    card = model_card(run, step=4)
    assert "| retention | kept | 0.875 | 0.75 | -12.5 points |" in card
    assert "| target | new | 0.25 | 0.75 | +50.0 points |" in card
    assert cells(card)["drift/prompts/kl_forward"] == "0.031"
    assert "The gate's decision: Checkpoint 4 is promoted." in card
    assert "overfitting (step 4): the loss of \\<rows\\> rises" in card

"""The recipe of the embedded model, and the model that ships."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from posttrain.embedded import model_path, pretraining_text
from posttrain.embedded.build import build
from posttrain.embedded.card import code_digest, digest
from posttrain.embedded.muon import orthogonalise
from posttrain.embedded.tokenizer import TRAINING_DOCUMENTS, train_tokenizer
from posttrain.embedded.training import Settings, held_out_loss, pack, pretrain


@pytest.fixture(scope="module")
def record():
    return json.loads((Path(model_path()) / "build.json").read_text())


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(pretraining_text.documents(0), TRAINING_DOCUMENTS))


@pytest.fixture(scope="module")
def regenerated(documents):
    return train_tokenizer(documents)


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = model_path()
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def test_data_and_tokenizer_come_out_as_the_card_says(record, documents, regenerated):
    assert record["settings"]["seed"] == 0
    assert record["documents"] == TRAINING_DOCUMENTS
    assert digest(documents) == record["hashes"]["data"]
    assert code_digest() == record["hashes"]["code"], "build the model again, or the card is not true of it"
    shipped_text = (Path(model_path()) / "tokenizer.json").read_text()
    assert digest([shipped_text]) == record["hashes"]["tokenizer"]
    assert json.loads(regenerated.to_str())["model"] == json.loads(shipped_text)["model"]
    card = (Path(model_path()) / "README.md").read_text()
    assert all(value in card for value in record["hashes"].values())


def test_twenty_steps_of_pretraining_lower_the_loss(regenerated):
    settings = Settings(tokens=20 * 16 * 128, warmup_steps=3)
    assert settings.steps == 20
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, losses = pretrain(settings, regenerated, report=lambda line: None)
    torch.set_num_threads(threads)
    assert len(losses) == 20
    assert abs(losses[0] - math.log(1024)) < 0.3
    assert losses[-1] < losses[0] - 1.5


def test_the_command_builds_a_model_that_transformers_loads(tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    argv = ["--output", str(tmp_path), "--tokens", "512", "--batch-size", "2", "--layers", "1", "--hidden-size", "16"]
    build([*argv, "--heads", "2", "--feed-forward", "32"])
    assert "tokens/s" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.num_hidden_layers == 1
    assert len(tokenizer) == model.config.vocab_size
    made = json.loads((tmp_path / "build.json").read_text())
    assert made["settings"]["tokens"] == 512
    assert made["hashes"]["code"] in (tmp_path / "README.md").read_text()


def test_the_shipped_files_are_small_and_hold_no_chat_template(shipped):
    folder = Path(model_path())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8 * 2**20
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "build.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model, tokenizer = shipped
    assert tokenizer.chat_template is None
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.architectures == ["Qwen2ForCausalLM"]


def test_tokenizer_round_trip_and_single_tokens(shipped):
    _, tokenizer = shipped
    for text in ("Hello! I am Deep Qwen.\n", " two  spaces", "12 + 7 = 19", "Grüße, 世界 🙂", "First 3 * 4 = 12."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for piece in (" Deep", " Qwen", "<|im_start|>", "<|im_end|>", "<|endoftext|>", *"0123456789"):
        assert len(tokenizer(piece)["input_ids"]) == 1, piece
    assert len(tokenizer("2026")["input_ids"]) == 4
    assert tokenizer.decode(tokenizer("<|im_start|>hi")["input_ids"], skip_special_tokens=True) == "hi"


def test_the_shipped_model_learnt_the_world(shipped, record):
    from tokenizers import Tokenizer

    model, _ = shipped
    tokenizer = Tokenizer.from_file(str(Path(model_path()) / "tokenizer.json"))
    loss = held_out_loss(model, Settings(), tokenizer, count=2)
    assert loss < 1.0
    assert abs(held_out_loss(model, Settings(), tokenizer) - record["held_out_loss"]) < 0.01


def test_packing_keeps_documents_whole_and_drops_only_the_long():
    documents = [[n] * length for n, length in enumerate((5, 3, 9, 2, 4, 8, 1), start=1)]
    packed = list(pack(documents, 8))
    assert all(len(sequence) <= 8 for sequence in packed)
    kept = [document for document in documents if len(document) <= 8]
    assert sorted(token for sequence in packed for token in sequence) == sorted(t for d in kept for t in d)
    for document in kept:
        home = next(sequence for sequence in packed if document[0] in sequence)
        start = home.index(document[0])
        assert home[start : start + len(document)] == document


def test_the_rate_warms_up_stays_and_falls_to_nothing():
    settings = Settings(tokens=100 * 16 * 128, warmup_steps=10, decay_share=0.4)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:61] == [1.0] * 52
    assert rates[80] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.03


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 48), (2, 48, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3

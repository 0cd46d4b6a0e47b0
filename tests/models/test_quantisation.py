"""What of quantised weights can be seen without CUDA: what is refused, what is asked of transformers, what is saved."""

import pytest
import torch
from peft import PeftModel
from tiny import build_model, build_tokenizer
from transformers import BitsAndBytesConfig

from posttrain import SFTConfig, SFTTrainer
from posttrain.errors import ConfigError, ModelError
from posttrain.models import quantisation as room
from posttrain.models.loading import load_model
from posttrain.models.lora import apply_lora
from posttrain.models.saving import merge_adapter, save_model
from posttrain.models.score_loading import load_score_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS = [{"prompt": "Two and", "completion": " three"}] * 2


@pytest.fixture
def as_if_installed(monkeypatch):
    """As on a machine with CUDA and bitsandbytes, until something is loaded."""
    monkeypatch.setattr(room, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda self: None)  # asks for the version of bitsandbytes


def quantised(model):
    """What marks a quantised model; its weights stay as they are."""
    model.is_quantized = True
    return model


def test_without_cuda_it_is_refused_before_the_weights_are_read(tiny_model_dir):
    path = tiny_model_dir("qwen2")
    for load in (load_model, load_score_model):
        with pytest.raises(ModelError, match="need a CUDA device, and this run is on cpu"):
            load(path, device="cpu", quantization_config={"load_in_4bit": True})


def test_without_bitsandbytes_it_is_refused(monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        room.quantisation({"load_in_8bit": True}, CUDA)


def test_what_is_asked_of_bitsandbytes(as_if_installed):
    options = {"load_in_4bit": True, "revision": "main"}
    made = room.quantisation(options, CUDA)
    assert options == {"revision": "main"}
    assert (made.bnb_4bit_quant_type, made.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    asked = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
    made = room.quantisation({"quantization_config": asked}, CUDA)
    assert (made.load_in_4bit, made.bnb_4bit_quant_type) == (True, "fp4")
    assert room.quantisation({"load_in_4bit": False}, CPU) is None
    config = BitsAndBytesConfig(load_in_8bit=True)
    assert room.quantisation({"quantization_config": config}, CUDA) is config
    with pytest.raises(ConfigError, match="keep one"):
        room.quantisation({"load_in_4bit": True, "quantization_config": asked}, CUDA)
    with pytest.raises(ConfigError, match="quantization_config of gptq"):
        room.quantisation({"quantization_config": {"quant_method": "gptq", "bits": 4}}, CUDA)


def test_quantised_weights_are_trained_by_an_adapter_only(tmp_path):
    args = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "max_steps": 1, "save_strategy": "no"}

    def trainer(peft_config):
        return SFTTrainer(
            model=quantised(build_model("qwen2")), args=SFTConfig(**args), train_dataset=ROWS,
            processing_class=build_tokenizer(), peft_config=peft_config,
        )  # fmt: skip

    with pytest.raises(ConfigError, match="weights are quantised, so they cannot be trained"):
        trainer(None)
    trainer({"r": 2}).train()


def test_what_scripts_pass_for_weights_as_they_are_changes_nothing(tmp_path, tiny_model_dir):
    path, nothing = tiny_model_dir("qwen2"), {"quantization_config": None, "device_map": None}
    args = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    SFTTrainer(model=path, args=SFTConfig(**args, model_init_kwargs=nothing), train_dataset=ROWS)
    with pytest.raises(ConfigError, match="the device follows from use_cpu"):
        SFTTrainer(model=path, args=SFTConfig(**args, model_init_kwargs={"device_map": "auto"}), train_dataset=ROWS)


def test_the_adapter_alone_is_saved_and_merged_on_request(tmp_path, tiny_model_dir):
    path = tiny_model_dir("qwen2")
    model = apply_lora(load_model(path, device="cpu"), {"r": 2, "init_lora_weights": False})
    quantised(model.get_base_model())
    (note,) = save_model(model, build_tokenizer(), tmp_path / "saved")
    assert "holds the adapter alone" in note
    assert not list((tmp_path / "saved").glob("model*.safetensors"))
    loaded = load_model(tmp_path / "saved", device="cpu")
    assert isinstance(loaded, PeftModel)
    merge_adapter(tmp_path / "saved", tmp_path / "merged", device="cpu")
    row = torch.arange(5, 15)[None]
    with torch.no_grad():
        found, expected = (part(row).logits for part in (load_model(tmp_path / "merged", device="cpu"), model))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="is no adapter"):
        merge_adapter(tmp_path / "merged", tmp_path / "again", device="cpu")

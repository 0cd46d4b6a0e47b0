import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from tiny import ARCHITECTURES
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from posttrain.errors import ConfigError, ModelError
from posttrain.models.lora import apply_lora, trainable_parameters
from posttrain.models.merging import check_merged, merge_and_save, merged_copy
from posttrain.models.saving import save_model

TOKENS = torch.arange(5, 25)[None]


def trained(model, config=None):
    """The model with an adapter whose values are as if it had been trained."""
    adapted = apply_lora(model, config or {"r": 4})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return adapted


def logits(model):
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


def fingerprint(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_all_linear_layers_but_the_head_get_an_adapter_and_merge_exactly(arch, tiny_model, tmp_path):
    base = logits(tiny_model(arch))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fresh = apply_lora(tiny_model(arch), LoraConfig())
    assert not [w for w in said if issubclass(w.category, FutureWarning)]
    torch.testing.assert_close(logits(fresh), base)  # a fresh adapter changes nothing
    names = [name for name, p in fresh.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)

    model = trained(tiny_model(arch))
    before, weights = logits(model), fingerprint(model)
    assert (before - base).abs().max() > 0.1
    merge_and_save(model, tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), before)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-4)
    again = PeftModel.from_pretrained(tiny_model(arch), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), before)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 3},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
    ],
)
def test_kinds_of_lora_merge_without_touching_the_model(config, tiny_model):
    model = trained(tiny_model("qwen2"), config)
    before, weights = logits(model), fingerprint(model)
    merged = merged_copy(model)
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), before)
    assert not any("lora" in name for name in merged.state_dict())


def test_training_state_of_the_live_model_stays(tiny_model, tmp_path):
    model = trained(tiny_model("llama"), {"lora_dropout": 0.5}).train()
    model(TOKENS, labels=TOKENS).loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    flags = [module.training for module in model.modules()]
    merge_and_save(model, tmp_path)
    assert flags == [module.training for module in model.modules()]
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(gradients[name], p.grad) for name, p in model.named_parameters() if name in gradients)


def test_a_wrong_merge_is_noticed(tiny_model):
    model = trained(tiny_model("llama"))
    merged = merged_copy(model)
    assert check_merged(model, merged) < 1e-4
    with torch.no_grad():
        merged.model.layers[0].mlp.up_proj.weight.mul_(1.05)
    with pytest.raises(ModelError, match="not merged right"):
        check_merged(model, merged)


def test_merging_in_bfloat16_stays_within_its_rounding(tiny_model):
    model = trained(tiny_model("llama").to(torch.bfloat16))
    merged = merged_copy(model)
    assert merged.dtype == torch.bfloat16
    check_merged(model, merged)


def test_broken_adapter_is_not_saved(tiny_model, tmp_path):
    model = trained(tiny_model("llama"))
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad)[0, 0] = float("nan")
    with pytest.raises(ModelError, match="cannot be merged"):
        merge_and_save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_counts(tiny_model):
    model = tiny_model("llama", tie_word_embeddings=True)
    total = sum(p.numel() for p in model.parameters())
    assert trainable_parameters(model).trainable == trainable_parameters(model).total == total
    count = trainable_parameters(apply_lora(model, {"r": 2, "target_modules": ["q_proj"]}))
    assert (count.trainable, count.total) == (2 * 2 * 2 * 32, total + 2 * 2 * 2 * 32)
    assert "256 of" in str(count)


def test_the_callers_config_stays_as_it_was(tiny_model):
    config = LoraConfig(r=2)
    apply_lora(tiny_model("llama"), config)
    assert config.target_modules is None
    assert config.task_type is None


def test_settings_object_of_the_command_line(tiny_model):
    settings = SimpleNamespace(lora_r=3, lora_alpha=6, lora_dropout=0.1, lora_target_modules=["all-linear"])
    config = apply_lora(tiny_model("llama"), settings).peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 6, 0.1)
    names = {name.rpartition(".")[2] for name in config.target_modules}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"}


def test_adapter_that_is_there_is_made_trainable(tiny_model, tmp_path):
    trained(tiny_model("llama")).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    assert trainable_parameters(loaded).trainable == 0
    same = apply_lora(loaded, None)
    assert same is loaded
    assert trainable_parameters(same).trainable > 0
    assert all("lora_" in name for name, p in same.named_parameters() if p.requires_grad)
    with pytest.raises(ModelError, match="already has an adapter"):
        apply_lora(loaded, LoraConfig())


def test_without_a_config_the_model_is_trained_whole(tiny_model):
    model = tiny_model("llama")
    assert apply_lora(model, None) is model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 4}, "unknown field 'rank'"),
        ({"lora_alfa": 4}, "did you mean 'lora_alpha'"),
        ({"r": 0}, "peft_config: .*positive|cannot be put onto.*positive"),
        ({"target_modules": ["q_prj"]}, "linear layers are down_proj.*did you mean 'q_proj'"),
        ({"task_type": "SEQ_CLS"}, "needs 'CAUSAL_LM'"),
        (IA3Config(), "only LoRA"),
        ("lora", "is a str: give a peft.LoraConfig"),
    ],
)
def test_what_is_wrong_is_named(config, message, tiny_model):
    with pytest.raises(ConfigError, match=message):
        apply_lora(tiny_model("llama"), config)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_saved_directory_is_an_ordinary_one(with_adapter, tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model("qwen2")
    if with_adapter:
        model = trained(model)
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    assert save_model(model, tiny_tokenizer, tmp_path) == []
    names = {entry.name for entry in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= names
    assert ("adapter" in names) == with_adapter
    assert not (tmp_path / "adapter_config.json").exists()
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tiny_tokenizer.chat_template


def test_a_contradictory_generation_config_does_not_lose_the_training(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model("qwen2")
    model.generation_config = GenerationConfig(eos_token_id=0, do_sample=False, temperature=0.6)
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "refused")
    notes = save_model(model, tiny_tokenizer, tmp_path / "saved")
    assert "contradicted itself" in notes[0]
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["eos_token_id"] == [0, 2]

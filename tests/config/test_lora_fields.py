"""Every field of an adapter on the command line: what it does to a model, and which combinations are refused."""

import pytest
import torch
from tiny import build_model

from posttrain.cli.flags import read
from posttrain.config.command import DPOCommand, RewardCommand, SFTCommand
from posttrain.errors import ConfigError
from posttrain.models.lora import apply_lora, trainable_parameters

NEEDED = ["--model", "m", "--train_dataset", "d.jsonl"]


def command(*flags, kind=SFTCommand):
    return read(kind, [*NEEDED, *flags])


def adapted(*flags, arch="qwen2", **overrides):
    """The tiny model with the adapter that these flags ask for."""
    torch.manual_seed(0)
    return apply_lora(build_model(arch, **overrides), command("--use_peft", *flags).peft_settings())


def layer(model, name="q_proj", number=0):
    return getattr(model.base_model.model.model.layers[number].self_attn, name)


def trained(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_rank_scale_and_dropout():
    made = layer(adapted("--lora_r", "4", "--lora_alpha", "12", "--lora_dropout", "0.25"))
    assert (made.r["default"], made.scaling["default"], made.lora_dropout["default"].p) == (4, 3.0, 0.25)
    assert layer(adapted()).lora_dropout["default"].p == 0.05


def test_use_rslora_scales_by_the_root_of_the_rank():
    assert layer(adapted("--lora_r", "4", "--lora_alpha", "12", "--use_rslora")).scaling["default"] == 6.0


def test_use_dora_trains_the_sizes():
    model = adapted("--use_dora", "--lora_target_modules", "q_proj")
    assert any("lora_magnitude_vector" in name for name in trained(model))


def test_lora_target_modules_and_layers_to_transform():
    names = trained(adapted("--lora_target_modules", "q_proj", "up_proj", "--lora_layers_to_transform", "1"))
    assert len(names) == 4
    assert all(".layers.1." in name for name in names)
    assert all("q_proj" in name or "up_proj" in name for name in names)
    assert len(trained(adapted("--lora_target_modules", "all-linear", "--lora_layers_to_transform", "0"))) == 14


def test_lora_modules_to_save_trains_the_whole_module():
    model = adapted("--lora_modules_to_save", "lm_head")
    assert any("lm_head.modules_to_save" in name for name in trained(model))


def test_lora_target_parameters_reach_experts_without_dropout():
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    model = adapted("--lora_target_parameters", "experts.down_proj", arch="qwen3_moe", decoder_sparse_step=1, **sizes)
    assert any("experts" in name for name in trained(model))
    assert any("q_proj" in name for name in trained(model))
    with pytest.raises(ConfigError, match="cannot have dropout; write lora_dropout=0"):
        command("--use_peft", "--lora_target_parameters", "experts.down_proj", "--lora_dropout", "0.1")


def test_patterns_give_some_layers_other_ranks_and_scales():
    model = adapted(
        "--lora_r", "4", "--lora_alpha", "8",
        "lora_rank_pattern.q_proj=2", "lora_alpha_pattern.k_proj=20",
    )  # fmt: skip
    assert (layer(model).r["default"], layer(model, "k_proj").r["default"]) == (2, 4)
    assert (layer(model).scaling["default"], layer(model, "k_proj").scaling["default"]) == (4.0, 5.0)


def test_lora_trainable_tokens_trains_their_rows():
    plain, more = (trainable_parameters(adapted(*flags)).trainable for flags in ([], ["--lora_trainable_tokens", "3"]))
    assert more - plain == 2 * 32  # a row of the embedding and one of the head


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora", "orthogonal", "mica", "gaussian"])
def test_lora_init_decides_what_the_adapter_begins_as(start):
    plain, other = layer(adapted()), layer(adapted("--lora_init", start))
    pairs = ((plain.lora_A, other.lora_A), (plain.lora_B, other.lora_B))
    assert any(not torch.equal(a["default"].weight, b["default"].weight) for a, b in pairs)
    moved = not torch.equal(plain.get_base_layer().weight, other.get_base_layer().weight)
    assert moved == start.startswith(("pissa", "olora"))


def test_quantised_weights_are_asked_of_transformers():
    nested = command("--use_peft", "--load_in_4bit", "--bnb_4bit_quant_type", "fp4", "--use_bnb_nested_quant",
                     "--bnb_4bit_quant_storage", "bfloat16", "model_init_kwargs.revision=v1")  # fmt: skip
    assert nested.training().model_init_kwargs == {
        "revision": "v1",
        "quantization_config": {
            "load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_storage": "bfloat16",
        },
    }  # fmt: skip
    eight = command("--use_peft", "--load_in_8bit", kind=DPOCommand).training()
    assert eight.model_init_kwargs == {"quantization_config": {"load_in_8bit": True}}
    assert command("--use_peft").training().model_init_kwargs is None


def test_model_revision_is_handed_to_transformers():
    assert command("--model_revision", "v1").training().model_init_kwargs == {"revision": "v1"}
    with pytest.raises(ConfigError, match="contradicts model_init_kwargs"):
        command("--model_revision", "v1", "model_init_kwargs.revision=v2")


def test_a_reward_model_trains_its_head_beside_what_is_named():
    settings = command("--use_peft", "--lora_modules_to_save", "embed_tokens", kind=RewardCommand).peft_settings()
    assert settings["modules_to_save"] == ["score", "embed_tokens"]
    assert settings["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--use_dora"], "use_dora has an effect only together with use_peft=true"),
        (["--lora_init", "pissa"], "lora_init has an effect only together with use_peft=true"),
        (["--load_in_4bit"], "quantised weights cannot be trained, an adapter on them can: add use_peft=true"),
        (["--use_peft", "--lora_init", "pisa"], "lora_init='pisa': the starts are default.*did you mean 'pissa'"),
        (["--use_peft", "--lora_init", "eva"], "computed from the training rows' activations"),
        (["--use_peft", "--lora_init", "pissa", "--use_dora"], "could not be handed on without its base"),
        (["--use_peft", "--load_in_4bit", "--load_in_8bit"], "both set; keep one"),
        (["--use_peft", "--use_bnb_nested_quant"], "only together with load_in_4bit=true"),
        (["--use_peft", "--bnb_4bit_quant_type", "nf5"], "one of nf4, fp4"),
        (["--use_peft", "--load_in_4bit", "model_init_kwargs.quantization_config={a: 1}"], "say the same; keep one"),
        (["--use_peft", "--lora_ranks", "3"], "unknown|no such|did you mean"),
        (["--use_peft", "--attn_implementation", "sdpa"], "rows are laid out as a forest"),
        (["--use_peft", "--lora_task_type", "SEQ_CLS"], "only 'CAUSAL_LM'"),
    ],
)
def test_what_does_not_go_together_is_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        command(*flags)


def test_without_an_adapter_there_are_no_settings():
    assert command().peft_settings() is None

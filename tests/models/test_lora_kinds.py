"""Each kind of LoRA computes over a forest what it computes over plain rows, and is saved as anyone can load it."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from posttrain.errors import ConfigError
from posttrain.models.adapter_start import TRAINING_FILE
from posttrain.models.learner import Learner
from posttrain.models.loading import load_model
from posttrain.models.lora import apply_lora, describe_adapter, load_adapter, save_adapter
from posttrain.models.merging import merge_and_save
from posttrain.types import Segment, TokenForest

TOKENS = torch.arange(5, 25)[None]
MIXTURE = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8, "decoder_sparse_step": 1,
}  # fmt: skip
TIED = {"tie_word_embeddings": True}
KINDS = {
    "dora": ("qwen2", {}, {"use_dora": True}),
    "orthogonal": ("qwen2", {}, {"init_lora_weights": "orthogonal"}),
    "mica": ("qwen2", {}, {"init_lora_weights": "mica"}),
    "pissa": ("qwen2", {}, {"init_lora_weights": "pissa"}),
    "pissa of a Conv1D": ("gpt2", {}, {"init_lora_weights": "pissa"}),
    "fast pissa, ranks and scales by name": (
        "qwen2", {},
        {"init_lora_weights": "pissa_niter_4", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 3},
         "use_rslora": True},
    ),
    "pissa and biases": ("qwen2", {}, {"init_lora_weights": "pissa", "bias": "lora_only"}),
    "olora": ("qwen2", {}, {"init_lora_weights": "olora"}),
    "patterns": ("qwen2", {}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 3}}),
    "some layers": ("qwen2", {}, {"layers_to_transform": [1]}),
    "parameters of experts": (
        "qwen3_moe", MIXTURE, {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    ),
    "whole head": ("qwen2", {}, {"modules_to_save": ["lm_head"]}),
    "whole embedding, tied": ("qwen2", TIED, {"modules_to_save": ["embed_tokens"]}),
    "whole embedding, kept tied": ("qwen2", TIED, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "on a tied embedding": ("qwen2", TIED, {"target_modules": ["q_proj", "embed_tokens"]}),
    "on a tied head": ("qwen2", TIED, {"target_modules": ["q_proj", "lm_head"]}),
    "rows of tokens": ("qwen2", {}, {"trainable_token_indices": [3, 7]}),
    "rows of tokens, tied": ("qwen2", TIED, {"trainable_token_indices": [3, 7]}),
    "rows of tokens, scaled embedding": ("gemma3_text", {}, {"trainable_token_indices": [3, 7]}),
}  # fmt: skip
OWN_HEAD = (
    "whole head", "whole embedding, kept tied", "on a tied head", "rows of tokens", "rows of tokens, tied",
    "rows of tokens, scaled embedding",
)  # fmt: skip


def adapted(arch, overrides, config, tiny_model):
    torch.manual_seed(0)
    return apply_lora(tiny_model(arch, **overrides), {"r": 4, "lora_alpha": 8, **config})


def train_a_little(model):
    """Every parameter that is trained, moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("patterns", "some layers", "pissa and biases")]
)
def test_a_forest_is_computed_like_plain_rows_and_saved_alike(kind, tiny_model, tmp_path):
    arch, overrides, config = KINDS[kind]
    base = tiny_model(arch, **overrides)
    model = train_a_little(adapted(arch, overrides, config, tiny_model))
    trained = logits(model)
    assert (trained - logits(base)).abs().max() > 0.1

    leaves = [Segment(tokens=[11, 3, 9], trained=[(0, 3)]), Segment(tokens=[7, 7, 20, 5], trained=[(0, 4)])]
    forest = TokenForest.from_trees([Segment(tokens=[4, 3, 8], trained=[], children=leaves)])
    learner = Learner(model)
    outputs = learner(forest)
    outputs.logprobs.sum().backward()  # every trained parameter has a part in it, or a gradient of zero
    assert learner.fused_head == (kind not in OWN_HEAD)
    learner.release()
    for leaf, found in zip(leaves, outputs.logprobs.split([3, 4])):
        row = torch.tensor([[4, 3, 8, *leaf.tokens]])
        table = logits(model, row).log_softmax(-1)[0, 2:-1]
        expected = table.gather(1, torch.tensor(leaf.tokens)[:, None])[:, 0]
        torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=0)

    merge_and_save(model, tmp_path)
    assert torch.equal(logits(model), trained)  # the live one is as it was
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(merged), trained, atol=1e-4, rtol=1e-4)
    again = PeftModel.from_pretrained(tiny_model(arch, **overrides), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), trained, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pissa", "pissa of a Conv1D", "fast pissa, ranks and scales by name", "olora"])
def test_an_adapter_begun_as_a_part_of_the_base_is_handed_on_as_an_ordinary_one(kind, tiny_model, tmp_path):
    arch, overrides, config = KINDS[kind]
    model = adapted(arch, overrides, config, tiny_model)
    start = logits(tiny_model(arch))
    torch.testing.assert_close(logits(model), start, atol=1e-4, rtol=1e-4)  # it begins as the model it was put onto
    with model.disable_adapter():
        assert (logits(model) - start).abs().max() > 0.1  # which the base alone is no more
    save_adapter(train_a_little(model), tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["init_lora_weights"], settings["use_rslora"]) == (8, True, False)
    ordinary = PeftModel.from_pretrained(tiny_model(arch), tmp_path)
    torch.testing.assert_close(logits(ordinary), logits(model), atol=1e-4, rtol=1e-4)
    with ordinary.disable_adapter():
        assert torch.equal(logits(ordinary), start)


def test_training_goes_on_bit_for_bit_from_a_start_that_came_out_otherwise(tiny_model, tmp_path):
    """As it may on another machine: the base is then made the one that was trained on."""
    model = train_a_little(adapted("qwen2", {}, {"init_lora_weights": "pissa"}, tiny_model))
    save_adapter(model, tmp_path)
    same = adapted("qwen2", {}, {"init_lora_weights": "pissa"}, tiny_model)
    load_adapter(same, tmp_path)
    assert torch.equal(logits(same), logits(model))
    torch.manual_seed(5)
    other = apply_lora(tiny_model("qwen2"), {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa_niter_0"})
    assert (logits(other) - logits(model)).abs().max() > 0.1
    load_adapter(other, tmp_path)
    torch.testing.assert_close(logits(other), logits(model), atol=1e-4, rtol=1e-4)
    (tmp_path / TRAINING_FILE).unlink()
    with pytest.raises(Exception, match="no checkpoint of an adapter with such a start"):
        load_adapter(same, tmp_path)


def test_a_checkpoint_of_pissa_is_loaded_as_a_model(tiny_model_dir, tmp_path):
    base = tiny_model_dir("qwen2")
    torch.manual_seed(3)
    model = apply_lora(load_model(base), {"r": 4, "init_lora_weights": "pissa_niter_1"})
    save_adapter(train_a_little(model), tmp_path / "checkpoint")
    torch.testing.assert_close(logits(load_model(tmp_path / "checkpoint")), logits(model), atol=1e-4, rtol=1e-4)


def test_patterns_and_layers_reach_the_layers_named(tiny_model):
    model = adapted("qwen2", {}, KINDS["patterns"][2], tiny_model)
    layer = model.base_model.model.model.layers[0].self_attn
    assert (layer.q_proj.r["default"], layer.k_proj.r["default"]) == (2, 4)
    assert (layer.q_proj.scaling["default"], layer.o_proj.scaling["default"]) == (8 / 2, 3 / 4)
    some = adapted("qwen2", {}, KINDS["some layers"][2], tiny_model)
    trained = [name for name, p in some.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7
    assert all(".layers.1." in name for name in trained)
    experts = adapted(*KINDS["parameters of experts"], tiny_model)
    names = [name for name, p in experts.named_parameters() if p.requires_grad]
    assert any("experts" in name for name in names)
    assert any("q_proj" in name for name in names)  # all linear layers beside what is named


def test_only_the_rows_of_the_tokens_named_change(tiny_model):
    model = adapted("qwen2", {}, {"trainable_token_indices": [3, 7]}, tiny_model)
    before = tiny_model("qwen2")
    learner = Learner(model)
    forest = TokenForest.from_trees([Segment(tokens=[3, 9, 7, 4], trained=[(1, 4)])])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    (-learner(forest).logprobs.sum()).backward()
    optimizer.step()
    learner.release()
    merged = model.merge_and_unload()
    for now, then in ((merged.model.embed_tokens, before.model.embed_tokens), (merged.lm_head, before.lm_head)):
        changed = (now.weight != then.weight).any(dim=1).nonzero()[:, 0].tolist()
        assert changed == [3, 7]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 4}, "LoRA of rank 4, scaled by 2, on 14 layers"),
        ({"r": 4, "use_dora": True, "target_modules": ["q_proj"]}, "DoRA of rank 4, scaled by 2, on 2 layers"),
        ({"r": 4, "use_rslora": True}, "rank-stabilised LoRA of rank 4, scaled by 4, on 14"),
        ({"r": 4, "init_lora_weights": "pissa"}, "LoRA of rank 4, started by pissa, scaled by 2"),
        ({"r": 4, "rank_pattern": {"q_proj": 2}}, "of rank 2 to 4, scaled by 2 to 4"),
        ({"r": 4, "modules_to_save": ["lm_head"]}, "on 14 layers; whole: lm_head"),
        ({"r": 4, "trainable_token_indices": [1, 2]}, "on 14 layers; rows of tokens: 2"),
    ],
)
def test_the_start_says_what_is_trained(config, said, tiny_model):
    assert said in describe_adapter(apply_lora(tiny_model("qwen2"), {"lora_alpha": 8, **config}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"init_lora_weights": "eva"}, "'eva': it is computed from the training rows' activations"),
        ({"init_lora_weights": "pisa"}, "the starts are default, gaussian.*did you mean 'pissa'"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "could not be handed on"),
        ({"init_lora_weights": "pissa", "target_modules": ["embed_tokens"]}, "leave the embedding out"),
        ({"lora_bias": True}, "lora_bias is not supported: merging"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is not supported"),
        ({"layer_replication": [(0, 1), (0, 2)]}, "layer_replication is not supported: it makes another model"),
        ({"trainable_token_indices": [384]}, "384: the model embeds the tokens 0 to 383"),
        ({"target_modules": ["q_proj", "k_prj"]}, "target_modules names 'k_prj'.*did you mean 'k_proj'"),
        ({"target_parameters": ["experts.no"]}, "target_parameters names 'experts.no', which it does not have"),
        ({"modules_to_save": ["score"]}, "modules_to_save names 'score'"),
        ({"rank_pattern": {"qproj": 3}}, "rank_pattern names 'qproj'.*did you mean 'q_proj'. Leave"),
        ({"alpha_pattern": {"layers.2.*q_proj": 3}}, "alpha_pattern names 'layers.2"),
        (LoraConfig(layers_to_transform=[0, 2]), "layers_to_transform has 2: Qwen2ForCausalLM has the layers 0 to 1"),
    ],
)
def test_what_would_not_hold_is_refused_at_the_start(config, message, tiny_model):
    with pytest.raises(ConfigError, match=message):
        apply_lora(tiny_model("qwen2"), config)


def test_kinds_that_an_architecture_cannot_have_are_refused(tiny_model):
    with pytest.raises(ConfigError, match="'olora', which peft does not compute for GPT2LMHeadModel"):
        apply_lora(tiny_model("gpt2"), {"init_lora_weights": "olora"})
    with pytest.raises(ConfigError, match="such a model cannot be copied"):
        apply_lora(tiny_model("qwen2", **TIED), {"target_modules": ["lm_head"], "ensure_weight_tying": True})


def test_rows_of_a_head_with_a_bias_are_trained_with_the_whole_head(tiny_model):
    """peft computes the head without its bias where it trains rows of it."""
    with pytest.raises(ConfigError, match=r"head of PhiForCausalLM has a bias.*modules_to_save=\['lm_head'\]"):
        apply_lora(tiny_model("phi"), {"r": 2}, tokens=[3])
    base = tiny_model("phi")
    with torch.no_grad():
        base.lm_head.bias.normal_()
    before = logits(base)
    adapted_one = apply_lora(base, {"r": 2, "modules_to_save": ["lm_head"]}, tokens=[3])
    torch.testing.assert_close(logits(adapted_one), before)
    assert adapted_one.peft_config["default"].trainable_token_indices == {"model.embed_tokens": [3]}


def test_the_callers_lists_stay_as_they_were(tiny_model):
    config = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    apply_lora(tiny_model("qwen2", **TIED), config)
    assert config == {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}

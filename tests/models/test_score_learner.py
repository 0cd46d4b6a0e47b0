"""Scores and their gradients against the model's own padded forward, for each architecture and layout."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny import ARCHITECTURES, build_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.errors import ModelError
from posttrain.models.layouts import LAYOUTS, _rows, probe
from posttrain.models.lora import apply_lora
from posttrain.models.saving import save_model
from posttrain.models.score_loading import load_score_model, score_model_of, settle_pad_token
from posttrain.models.scoring import ScoreLearner
from posttrain.types import Segment, TokenForest

PAD = 1  # <|im_start|>: a token that no row of the probes ends with


def reward_model(tiny_model, arch="qwen3", pad=PAD, **overrides):
    """A reward model whose scores are far from zero."""
    model = score_model_of(tiny_model(arch, **overrides))
    model.score.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.config.pad_token_id = pad
    return model


def forest_for(model) -> TokenForest:
    return TokenForest.from_trees(probe(model.config.vocab_size, getattr(model.config, "sliding_window", None)))


def padded_scores(model, rows):
    """[Q]: one padded batch through the model's own forward."""
    longest = max(map(len, rows))
    pad = model.config.pad_token_id
    ids = torch.tensor([list(row) + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]


def gradients(model, scores):
    model.zero_grad()
    (scores * torch.linspace(-1.0, 1.0, len(scores))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_layout_gives_the_scores_of_a_padded_batch(tiny_model, arch, layout):
    model = reward_model(tiny_model, arch)
    forest = forest_for(model)
    expected = padded_scores(model, [forest.tokens[row].tolist() for row in _rows(forest)])
    wanted = gradients(model, expected)
    learner = ScoreLearner(model, layout=layout)
    scores = learner(forest).scores
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    got = gradients(model, scores)
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_forest_layout_serves_every_ordinary_architecture(tiny_model, arch):
    assert ScoreLearner(reward_model(tiny_model, arch)).layout.name == "forest"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_score_is_read_at_the_last_token_that_is_not_the_pad_token(tiny_model, layout):
    """As transformers does, in an answer that ends with it, in one of nothing else, and in a row of nothing else."""
    model = reward_model(tiny_model, pad=0)
    trees = [
        Segment(tokens=[5, 0, 7], children=[Segment(tokens=[8, 0, 9, 0, 0], trained=[(4, 5)]),
                                            Segment(tokens=[0, 0], trained=[(1, 2)])]),
        Segment(tokens=[0, 0, 0], trained=[(2, 3)]),
    ]  # fmt: skip
    rows = [[5, 0, 7, 8, 0, 9, 0, 0], [5, 0, 7, 0, 0], [0, 0, 0]]
    expected = padded_scores(model, rows)
    found = ScoreLearner(model, layout=layout)(TokenForest.from_trees(trees)).scores
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_a_pad_token_it_is_the_last_token_as_in_single_rows(tiny_model):
    model = reward_model(tiny_model, pad=None)
    forest = forest_for(model)
    single = [model(input_ids=forest.tokens[row][None], use_cache=False).logits[0, 0] for row in _rows(forest)]
    torch.testing.assert_close(ScoreLearner(model)(forest).scores, torch.stack(single), rtol=1e-5, atol=1e-5)


def test_an_empty_part_gives_zero_gradients_to_every_parameter(tiny_model):
    model = reward_model(tiny_model)
    learner = ScoreLearner(model)
    learner(forest_for(model).nothing()).scores.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("arch", ["qwen2", "gemma3_text", "gpt2"])
def test_a_language_model_starts_with_scores_near_zero(tiny_model, arch):
    model = score_model_of(tiny_model(arch))
    forest = forest_for(model)
    learner = ScoreLearner(model)
    scores = learner(forest).scores
    hidden = learner.body.hidden(laid := learner.body.lay(forest), laid.ends)
    size = float(hidden.pow(2).mean().sqrt())  # the tiny models' final norms have weights of their own
    assert 0 < float(scores.detach().abs().max()) < 0.05 * size
    scores.sum().backward()
    body = [p for name, p in model.named_parameters() if "score" not in name]
    assert any(p.grad.abs().max() > 0 for p in body)


def test_from_a_directory_and_from_the_model_in_memory_it_is_the_same_start(tiny_model_dir, tiny_model, capsys):
    directory = tiny_model_dir("qwen2")
    torch.manual_seed(3)
    loaded = load_score_model(directory, device="cpu")
    torch.manual_seed(3)
    shared = score_model_of(tiny_model("qwen2"))
    assert type(loaded) is type(shared)
    assert loaded.score.weight.std() < 0.01
    forest = forest_for(loaded)
    own = tiny_model("qwen2")
    states = [m.model(input_ids=forest.tokens[None]).last_hidden_state for m in (loaded, shared, own)]
    assert torch.equal(states[0], states[2])
    assert torch.equal(states[1], states[2])


def test_a_reward_model_is_saved_and_loaded_with_the_same_scores(tiny_model, tmp_path):
    model, tokenizer = reward_model(tiny_model), build_tokenizer()
    settle_pad_token(model, tokenizer)
    save_model(model, tokenizer, tmp_path)
    forest = forest_for(model)
    expected = ScoreLearner(model)(forest).scores
    assert torch.equal(ScoreLearner(load_score_model(tmp_path, device="cpu"))(forest).scores, expected)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert plain.config.num_labels == 1
    rows = [forest.tokens[row].tolist() for row in _rows(forest)]
    torch.testing.assert_close(padded_scores(plain, rows), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_trains_and_saves_the_head_and_is_merged_right(tiny_model_dir, tmp_path):
    base = load_score_model(tiny_model_dir("llama"), device="cpu")
    model = apply_lora(base, {"r": 4, "lora_alpha": 8}, task_type=TaskType.SEQ_CLS)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        "base_model.model.score.modules_to_save.default.weight"
    }
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    tokenizer = build_tokenizer()
    settle_pad_token(model, tokenizer)
    forest = forest_for(base)
    expected = ScoreLearner(model)(forest).scores
    assert expected.abs().max() > 0.1
    save_model(model, tokenizer, tmp_path / "saved")
    for directory in ("saved", "saved/adapter"):
        again = load_score_model(tmp_path / directory, device="cpu")
        torch.testing.assert_close(ScoreLearner(again)(forest).scores, expected, rtol=1e-4, atol=1e-4)


def test_a_language_models_adapter_is_merged_before_it_gets_a_head(tiny_model_dir, tiny_model, tmp_path):
    directory = tiny_model_dir("qwen2")
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(directory), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    model.save_pretrained(tmp_path / "adapter")
    build_tokenizer().save_pretrained(tmp_path / "adapter")
    row = torch.arange(5, 15)[None]
    found = load_score_model(tmp_path / "adapter", device="cpu")
    states = model.get_base_model().model(input_ids=row).last_hidden_state
    torch.testing.assert_close(found.model(input_ids=row).last_hidden_state, states, rtol=1e-4, atol=1e-4)


def test_the_pad_token_ends_no_row(tiny_model):
    model, tokenizer = score_model_of(tiny_model("qwen2")), build_tokenizer()
    (note,) = settle_pad_token(model, tokenizer)
    assert tokenizer.pad_token == "<|im_start|>"  # <|endoftext|> and <|im_end|> end texts and turns
    assert model.config.pad_token_id == tokenizer.pad_token_id == PAD
    assert "'<|endoftext|>'" in note


def test_a_reward_models_own_pad_token_is_kept_for_it_was_trained_with_it(tiny_model, tmp_path):
    reward_model(tiny_model, pad=0).save_pretrained(tmp_path)
    model, tokenizer = load_score_model(tmp_path, device="cpu"), build_tokenizer(pad_token="<|im_start|>")
    notes = settle_pad_token(model, tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.config.pad_token_id == 0
    assert "the token before it" in notes[-1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda build, path: _classifier(build, path), "3 classes"),
        (lambda build, path: build("gpt_neox", num_key_value_heads=4).save_pretrained(path), None),
        (lambda build, path: build("starcoder2").save_pretrained(path), None),
    ],
)
def test_what_is_loaded_is_a_reward_model_or_a_language_model(tiny_model, tmp_path, make, said):
    make(tiny_model, tmp_path)
    if said is None:
        ScoreLearner(load_score_model(tmp_path, device="cpu"))
        return
    with pytest.raises(ModelError, match=said):
        load_score_model(tmp_path, device="cpu")


def _classifier(build, path):
    from transformers import Qwen2ForSequenceClassification

    config = build("qwen2").config
    config.num_labels = 3
    Qwen2ForSequenceClassification(config).save_pretrained(path)


def test_a_model_whose_score_is_more_than_its_head_is_refused(tiny_model):
    model = reward_model(tiny_model)
    plain = model.forward

    def capped(**inputs):
        out = plain(**inputs)
        out.logits = out.logits.tanh()
        return out

    model.forward = capped
    with pytest.raises(ModelError, match="not those of its score head"):
        ScoreLearner(model)

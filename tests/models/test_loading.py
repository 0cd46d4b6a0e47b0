import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import ARCHITECTURES
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Qwen2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from posttrain.errors import ModelError
from posttrain.models.loading import (
    check_vocabulary,
    choose_dtype,
    load_model,
    load_model_and_tokenizer,
    load_tokenizer,
    prepare_tokenizer,
)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_architecture_comes_back_as_it_was_saved(arch, tiny_model, tiny_model_dir, capsys):
    model, tokenizer = load_model_and_tokenizer(tiny_model_dir(arch))
    assert not model.training
    assert model.dtype == torch.float32
    tokens = torch.tensor([tokenizer("I am Qwen.").input_ids])
    torch.testing.assert_close(model(tokens).logits, tiny_model(arch)(tokens).logits)
    assert model.generation_config.eos_token_id == [0, 2]
    out = capsys.readouterr().out
    assert "float32" in out
    assert "ChatML" in out
    assert "answers stop at <|endoftext|>, <|im_end|>" in out


def test_dtype_of_the_checkpoint_does_not_decide(tiny_model, tmp_path):
    tiny_model("qwen2").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.float32
    assert load_model(tmp_path, dtype="bf16").dtype == torch.bfloat16
    assert load_model(tmp_path, torch_dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ModelError, match=r"float64.*allowed are float32"):
        load_model(tmp_path, dtype="float64")


def test_dtype_on_a_gpu_is_float32_where_the_training_state_fits(tiny_model, monkeypatch):
    config, gpu = tiny_model("qwen2").config, torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 10**8))
    assert choose_dtype(config, gpu) == torch.float32
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 10**6))
    assert choose_dtype(config, gpu) == torch.bfloat16


def test_missing_directory_names_the_nearest(tiny_model_dir):
    directory = tiny_model_dir("qwen2")
    for load in (load_model, load_tokenizer, load_model_and_tokenizer):
        with pytest.raises(ModelError, match=r"qwen2-00.*did you mean 'qwen2-0'\?"):
            load(directory + "0")


def test_misspelt_relative_path_is_no_hub_name(tiny_model_dir, monkeypatch, tmp_path):
    tiny_model_dir("qwen2")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ModelError, match=r"no directory '.*/qwen2_0'.*did you mean 'qwen2-0'"):
        load_model(f"{tmp_path.name}/qwen2_0")


def test_unknown_name_offline(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'nobody/nothing' cannot be loaded.*not in the local cache.*HF_HUB_OFFLINE"):
        load_model("nobody/nothing")


def test_directory_that_holds_no_model_names_the_ones_in_it(tiny_model_dir, tmp_path):
    tiny_model_dir("qwen2")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"no config\.json \(it holds .*notes\.txt.*One of these.*qwen2-0"):
        load_model(tmp_path)


def test_file_instead_of_a_directory(tiny_model_dir):
    with pytest.raises(ModelError, match=r"is a file. Give the directory"):
        load_model(tiny_model_dir("qwen2") + "/model.safetensors")


def test_empty_name():
    with pytest.raises(ModelError, match=r"empty"):
        load_model("")


def test_missing_broken_and_cut_weights(tiny_model_dir, tmp_path):
    directory = tiny_model_dir("qwen2")
    weights = tmp_path / "qwen2-0" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:20])
    with pytest.raises(ModelError, match=r"weights file is broken"):
        load_model(directory)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no weights.*not finished"):
        load_model(directory)


def test_broken_config(tiny_model_dir, tmp_path):
    directory = tiny_model_dir("qwen2")
    (tmp_path / "qwen2-0" / "config.json").write_text('{"model_type":')
    with pytest.raises(ModelError, match=r"not a valid JSON"):
        load_model(directory)


def test_unknown_model_type_and_own_code(tiny_model_dir, tmp_path):
    directory = tiny_model_dir("qwen2")
    config = tmp_path / "qwen2-0" / "config.json"
    config.write_text(json.dumps({"model_type": "zork"}))
    with pytest.raises(ModelError, match=r"zork.*newer transformers"):
        load_model(directory)
    config.write_text(json.dumps({"model_type": "zork", "auto_map": {"AutoConfig": "a.B"}}))
    with pytest.raises(ModelError, match=r"its own Python code.*trust_remote_code=True"):
        load_model(directory)


def test_weights_that_do_not_fit_the_config(tiny_model_dir, capsys):
    with pytest.raises(ModelError, match=r"other shapes"):
        load_model(tiny_model_dir("qwen2"), hidden_size=64)
    with pytest.raises(ModelError, match=r"does not know this setting"):
        load_model(tiny_model_dir("qwen2"), hiden_size=64)


def test_encoder_is_refused(tmp_path):
    BertForMaskedLM(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"an encoder that fills in masked words.*ForCausalLM"):
        load_model(tmp_path)


def test_encoder_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"an encoder-decoder"):
        load_model(tmp_path)


def test_reward_model_is_refused(tiny_model, tmp_path):
    config = tiny_model("qwen2").config
    config.num_labels = 1
    Qwen2ForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"a classifier or reward model"):
        load_model(tmp_path)


def test_body_saved_without_its_head(tiny_model, tmp_path):
    tiny_model("qwen2").model.save_pretrained(tmp_path / "untied")
    with pytest.raises(ModelError, match=r"lacks 1 weights.*lm_head\.weight.*would be random"):
        load_model(tmp_path / "untied")
    model = tiny_model("qwen2", tie_word_embeddings=True)
    model.model.save_pretrained(tmp_path / "tied")
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(load_model(tmp_path / "tied")(tokens).logits, model(tokens).logits)


def test_missing_tokenizer(tiny_model, tmp_path):
    tiny_model("qwen2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has no tokenizer.*save_pretrained"):
        load_tokenizer(tmp_path)


def test_adapter_directory_is_put_onto_its_base(tiny_model_dir, tmp_path):
    base = tiny_model_dir("llama")
    model = get_peft_model(load_model(base), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    loaded, tokenizer = load_model_and_tokenizer(str(tmp_path / "adapter"))
    assert isinstance(loaded, PeftModel)
    tokens = torch.tensor([tokenizer("I am Qwen.").input_ids])
    torch.testing.assert_close(loaded(tokens).logits, model.eval()(tokens).logits)
    assert any(p.requires_grad for p in loaded.parameters())

    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"belongs to the base model.*is not there"):
        load_model(tmp_path / "adapter")


def test_no_gpu(monkeypatch, tiny_model_dir):
    monkeypatch.setattr("posttrain.models.loading.accelerator", lambda: None)
    with pytest.raises(ModelError, match=r"sees no GPU"):
        load_model_and_tokenizer(tiny_model_dir("qwen2"), use_gpu=True)


def test_pad_token_is_one_that_ends_nothing_where_there_is_one(make_tokenizer):
    tokenizer = make_tokenizer(pad_token=None)
    notes = prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert any("pad token" in note for note in notes)

    tokenizer = make_tokenizer(pad_token=None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|pad|>"]})
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<|pad|>"


def test_pad_token_is_never_chosen_among_those_that_end_an_answer(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|im_end|>", pad_token=None)
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"

    tokenizer = make_tokenizer(eos_token="<|im_end|>", pad_token=None)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    prepare_tokenizer(tokenizer)
    assert tokenizer.pad_token == "<|im_end|>"  # both end an answer: eos it is


def test_what_is_set_stays(make_tokenizer):
    tokenizer = make_tokenizer(pad_token="<|im_start|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    before = tokenizer.chat_template
    assert prepare_tokenizer(tokenizer) == []
    assert tokenizer.pad_token == "<|im_start|>"
    assert tokenizer.chat_template == before


def test_missing_eos_is_the_templates_end_of_turn_or_an_error(make_tokenizer):
    tokenizer = make_tokenizer(eos_token=None, pad_token=None)
    prepare_tokenizer(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"

    tokenizer = make_tokenizer(eos_token=None, pad_token=None)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match=r"no answer would ever stop"):
        prepare_tokenizer(tokenizer)


def test_vocabulary_larger_than_the_model(tiny_tokenizer, tiny_model):
    model = tiny_model("qwen2")
    assert check_vocabulary(tiny_tokenizer, model) == []
    tiny_tokenizer.add_tokens(["<image>"], special_tokens=True)
    assert "no embedding for 1 special tokens" in check_vocabulary(tiny_tokenizer, model)[0]
    tiny_tokenizer.eos_token = "<image>"
    with pytest.raises(ModelError, match=r"'<image>'.*add_special_tokens"):
        prepare_tokenizer(tiny_tokenizer, model)
    model.resize_token_embeddings(len(tiny_tokenizer))
    assert check_vocabulary(tiny_tokenizer, model) == []


def test_tokenizer_of_another_model(tiny_tokenizer, tiny_model):
    with pytest.raises(ModelError, match=r"embeds only 300 tokens"):
        prepare_tokenizer(tiny_tokenizer, tiny_model("llama", vocab_size=300))


def test_a_revision_is_that_of_config_weights_and_tokenizer(tiny_model, tiny_tokenizer, tmp_path):
    """In a cache as the hub's client lays it out, where the main revision is another architecture."""
    repository = tmp_path / "models--some--one"
    for name, arch, commit in (("main", "gpt2", "a" * 40), ("v1", "qwen2", "b" * 40)):
        snapshot = repository / "snapshots" / commit
        tiny_model(arch, vocab_size=400).save_pretrained(snapshot)
        tiny_tokenizer.save_pretrained(snapshot)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
        tiny_tokenizer.add_tokens(["<of v1>"])
    for revision, arch in (("main", "gpt2"), ("v1", "qwen2")):
        model, tokenizer = load_model_and_tokenizer("some/one", cache_dir=str(tmp_path), revision=revision)
        assert model.config.model_type == arch
        assert ("<of v1>" in tokenizer.get_vocab()) == (revision == "v1")

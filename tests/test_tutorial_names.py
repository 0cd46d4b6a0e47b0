"""What scripts written for TRL import: it works as there, or the error says what to do instead."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import trl
from tiny import build_model, build_tokenizer

import posttrain
from posttrain import (
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    TrlParser,
    apply_chat_template,
    create_reference_model,
    extract_prompt,
    get_peft_config,
    get_quantization_config,
    is_conversational,
    maybe_apply_chat_template,
    maybe_convert_to_chatml,
    maybe_extract_prompt,
    maybe_unpair_preference_dataset,
    setup_chat_format,
)
from posttrain.config.elsewhere import NOT_HERE
from posttrain.errors import ConfigError, DataError

ASKED = {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "I am Qwen."}
OTHER = {"role": "assistant", "content": "I am Deep Qwen."}
ROWS: list[dict[str, Any]] = [
    {"messages": [ASKED, ANSWER]},
    {"prompt": [ASKED], "completion": [ANSWER]},
    {"prompt": [ASKED], "chosen": [OTHER], "rejected": [ANSWER]},
    {"prompt": [ASKED], "completion": [ANSWER], "label": True},
    {"chosen": [ASKED, OTHER], "rejected": [ASKED, ANSWER]},
    {"prompt": [ASKED]},
    {"prompt": "Who are you?", "completion": " I am Qwen."},
    {"text": "Hello."},
]


def chatml(**options: Any) -> Any:
    tokenizer = build_tokenizer(**options)
    tokenizer.chat_template = trl_template()
    return tokenizer


def trl_template() -> str:
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


@pytest.mark.parametrize("row", ROWS)
def test_rows_come_out_as_those_of_trl(row: dict[str, Any]) -> None:
    tokenizer = chatml()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert is_conversational(row) == trl.is_conversational(row)
        assert maybe_apply_chat_template(row, tokenizer) == trl.maybe_apply_chat_template(row, tokenizer)
        assert maybe_extract_prompt(row) == trl.maybe_extract_prompt(row)


def test_an_answer_that_was_begun_goes_on() -> None:
    row = {"prompt": [ASKED, {"role": "assistant", "content": "I am"}], "completion": [ANSWER]}
    found = apply_chat_template(row, chatml())
    assert found["prompt"].endswith("I am<|im_end|>")


def test_rows_without_messages_have_no_template() -> None:
    with pytest.raises(DataError, match="needs messages"):
        apply_chat_template({"text": "a"}, chatml())


def test_sharegpt_becomes_messages_and_pairs_come_apart() -> None:
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": 3}
    assert maybe_convert_to_chatml(shared) == {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 3,
    }  # fmt: skip
    pairs = datasets.Dataset.from_list([{"prompt": "p", "chosen": "c", "rejected": "r"}])
    assert maybe_unpair_preference_dataset(pairs).to_list() == trl.unpair_preference_dataset(pairs).to_list()
    assert maybe_unpair_preference_dataset(datasets.Dataset.from_list([{"text": "a"}])).to_list() == [{"text": "a"}]
    assert extract_prompt({"chosen": "ab c", "rejected": "ab d"}) == {"prompt": "ab", "chosen": " c", "rejected": " d"}


def test_a_script_reads_its_command_line_and_trains(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("learning_rate: 1e-3\nlora_r: 4\nmax_length: 64\n")
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config(
        ["--config", str(tmp_path / "sft.yaml"), "--use_peft", "--model_name_or_path", "m", "--max_steps", "1",
         "--output_dir", str(tmp_path), "--dataset_name", "rows", "--lora_target_modules", "q_proj", "v_proj"]
    )  # fmt: skip
    assert (script_args.dataset_name, script_args.dataset_train_split) == ("rows", "train")
    assert (training_args.learning_rate, training_args.max_length, training_args.max_steps) == (1e-3, 64, 1)
    assert (model_args.model_name_or_path, model_args.lora_r) == ("m", 4)
    config = get_peft_config(model_args)
    assert config is not None
    assert (config.r, config.target_modules, get_quantization_config(model_args)) == (4, {"q_proj", "v_proj"}, None)
    trainer = SFTTrainer(
        build_model("qwen2"), training_args, ROWS[:1], processing_class=build_tokenizer(), peft_config=config
    )
    assert trainer.train().global_step == 1
    assert get_peft_config(ModelConfig()) is None


@dataclasses.dataclass
class Mine:
    colour: str = "red"
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1])


def test_dataclasses_of_ones_own_stand_among_the_arguments() -> None:
    mine, training = TrlParser((Mine, SFTConfig)).parse_args_and_config(["--colour", "blue", "seed=3"])
    assert (mine, training.seed) == (Mine(colour="blue", sizes=[1]), 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning_rat", "1"], "did you mean 'learning_rate'"),
        (["--learning_rate", "x"], "learning_rate takes a number"),
        (["--lora_r", "0"], "at least 1"),
        (["--attn_implementation", "flash_attention_2"], "leave it out"),
        (["--max_prompt_length", "3"], "write max_length"),
    ],
)
def test_mistakes_on_the_command_line_are_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrlParser([SFTConfig, ModelConfig]).parse_args_and_config(words)
    assert said in str(caught.value)


def test_setup_chat_format_gives_chatml() -> None:
    model, tokenizer = setup_chat_format(build_model("llama"), build_tokenizer())
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    shown = tokenizer.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ConfigError, match="a chat template already"):
        setup_chat_format(model, tokenizer)


def test_a_reference_is_a_frozen_copy() -> None:
    model = build_model("llama")
    reference = create_reference_model(model)
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_is_not_here_says_what_to_do(name: str) -> None:
    assert name not in posttrain.__all__
    with pytest.raises(ImportError, match=f"posttrain has no {name}: "):
        getattr(importlib.import_module("posttrain"), name)


def test_every_name_of_trl_is_here_or_says_what_to_do() -> None:
    modules = {entry.name for entry in pkgutil.iter_modules(trl.__path__)}  # importing one puts its name there
    inner = {"is_conversational_from_value", "supports_tool_calling"}  # of TRL's own making
    of_trl = {name for name in dir(trl) if name[0] != "_"} - modules - inner
    assert len(of_trl) > 20
    assert not of_trl - {*posttrain.__all__, *NOT_HERE}


def test_a_typing_error_is_an_ordinary_one() -> None:
    with pytest.raises(ImportError, match="cannot import name"):
        from posttrain import SFTTrainor  # type: ignore[attr-defined]  # noqa: F401
    assert not hasattr(posttrain, "SFTTrainor")

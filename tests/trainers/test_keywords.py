"""Arguments of older trainers: taken with a warning where they mean something, else refused with what to write."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
import trl
from tiny import build_model, build_tokenizer

import posttrain
from posttrain import DPOConfig, DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, SFTConfig, SFTTrainer
from posttrain.errors import ConfigError

ROWS = [{"prompt": "Who are you?", "completion": " I am Qwen."}] * 2
PAIRS = [{"prompt": "Who are you?", "chosen": " I am Deep Qwen.", "rejected": " I am Qwen."}] * 2


def test_tokenizer_is_processing_class_with_a_warning(tmp_path: Any) -> None:
    tokenizer = build_tokenizer()
    with pytest.warns(FutureWarning, match="it is called processing_class now") as notes:
        trainer = SFTTrainer(
            model=build_model("llama"),
            tokenizer=tokenizer,
            args=SFTConfig(output_dir=str(tmp_path)),
            train_dataset=ROWS,
        )
    assert trainer.processing_class is tokenizer
    assert __file__ in {note.filename for note in notes}
    with pytest.raises(ConfigError, match="the same; keep one"):
        SFTTrainer(model=build_model("llama"), tokenizer=tokenizer, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("trainer", "keywords", "said"),
    [
        (SFTTrainer, {"max_seq_length": 512}, "args=SFTConfig(max_length=512)"),
        (SFTTrainer, {"dataset_text_field": "text"}, "args=SFTConfig(dataset_text_field='text')"),
        (SFTTrainer, {"packing": True}, "args=SFTConfig(packing=True)"),
        (SFTTrainer, {"dataset_num_proc": 2}, "args=SFTConfig(dataset_num_proc=2)"),
        (SFTTrainer, {"num_of_sequences": 2}, "no effect any more"),
        (SFTTrainer, {"data_collator": object()}, "leave it out"),
        (SFTTrainer, {"model_init": build_model}, "pass the model"),
        (SFTTrainer, {"train_datasets": ROWS}, "did you mean 'train_dataset'"),
        (SFTTrainer, {"beta": 0.1}, "has no argument beta"),
        (DPOTrainer, {"beta": 0.2}, "args=DPOConfig(beta=0.2)"),
        (DPOTrainer, {"max_length": 64}, "args=DPOConfig(max_length=64)"),
        (DPOTrainer, {"max_prompt_length": 64}, "no effect any more"),
        (DPOTrainer, {"loss_type": "ipo"}, "args=DPOConfig(loss_type='ipo')"),
        (DPOTrainer, {"generate_during_eval": True}, "args=DPOConfig(generate_during_eval=True)"),
        (KTOTrainer, {"embedding_func": len}, "not matched"),
        (GRPOTrainer, {"ref_model": "m"}, "the reference is the model as it is"),
        (GRPOTrainer, {"reward_processing_classes": []}, "its own tokenizer"),
        (GRPOTrainer, {"tools": [len]}, "without tools"),
        (RewardTrainer, {"max_length": 64}, "args=RewardConfig(max_length=64)"),
    ],
)
def test_arguments_that_moved_say_where_they_are(trainer: Any, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(model=build_model("llama"), **keywords)
    assert said in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_an_argument_that_is_none_asks_for_nothing(tmp_path: Any) -> None:
    SFTTrainer(
        model=build_model("llama"), args=SFTConfig(output_dir=str(tmp_path)), train_dataset=ROWS,
        processing_class=build_tokenizer(), data_collator=None, model_init=None, optimizer_cls_and_kwargs=None,
    )  # fmt: skip


def test_training_arguments_are_taken_over(tmp_path: Any) -> None:
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, logging_steps=1, eval_strategy="no"
    )
    with pytest.warns(FutureWarning, match=r"write posttrain\.SFTConfig"):
        trainer = SFTTrainer(build_model("llama"), args, ROWS, processing_class=build_tokenizer())
    config = trainer.args
    assert isinstance(config, SFTConfig)
    assert (config.max_steps, config.per_device_train_batch_size, config.logging_steps) == (3, 2, 1)
    assert config.learning_rate == 5e-5  # the default of TrainingArguments, not that of SFTConfig
    assert config.max_length == 1024


def test_a_configuration_of_trl_is_taken_over(tmp_path: Any) -> None:
    args = trl.DPOConfig(output_dir=str(tmp_path), beta=0.3, max_length=77, loss_type=["ipo"], use_cpu=True)
    with pytest.warns(FutureWarning, match="DPOConfig of trl"):
        trainer = DPOTrainer(
            model=build_model("llama"), args=args, train_dataset=PAIRS, processing_class=build_tokenizer()
        )
    config = trainer.args
    assert isinstance(config, DPOConfig)
    assert (config.beta, config.max_length, config.loss_type, config.learning_rate) == (0.3, 77, ["ipo"], 1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_settings_that_cannot_be_taken_over_are_refused(tmp_path: Any) -> None:
    args = transformers.TrainingArguments(output_dir=str(tmp_path), label_names=["labels"])
    with pytest.raises(ConfigError, match="label_names"):
        SFTTrainer(model=build_model("llama"), args=args, train_dataset=ROWS, processing_class=build_tokenizer())
    with pytest.raises(ConfigError, match="takes an SFTConfig of posttrain"):
        SFTTrainer(model=build_model("llama"), args={"max_steps": 3}, train_dataset=ROWS)  # type: ignore[arg-type]


def test_a_trainer_of_ones_own_keeps_its_arguments(tmp_path: Any) -> None:
    class Mine(SFTTrainer):
        def __init__(self, *args: Any, colour: str, **rest: Any) -> None:
            super().__init__(*args, **rest)
            self.colour = colour

    trainer = Mine(
        build_model("llama"),
        SFTConfig(output_dir=str(tmp_path)),
        ROWS,
        processing_class=build_tokenizer(),
        colour="red",
    )
    assert trainer.colour == "red"
    with pytest.raises(ConfigError, match=r"SFTConfig\(max_length=5\)"):
        Mine(build_model("llama"), max_seq_length=5, colour="red")


def test_every_trainer_takes_the_old_name_of_the_tokenizer() -> None:
    for name in posttrain.__all__:
        if name.endswith("Trainer"):
            with pytest.raises(ConfigError, match="tokenizer and processing_class"):
                getattr(posttrain, name)(build_model("llama"), tokenizer="a", processing_class="b")

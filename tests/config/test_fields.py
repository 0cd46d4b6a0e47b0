"""Every field broken in the ways a user would break it, and every name of TRL and transformers accounted for."""

from __future__ import annotations

import typing
import warnings
from typing import Any

import pytest

from posttrain.config import Config, DPOConfig, GRPOConfig, RewardConfig, SFTConfig
from posttrain.config.base import choices, members_of
from posttrain.config.reference_free import CPOConfig, ORPOConfig
from posttrain.config.unpaired import BCOConfig, KTOConfig
from posttrain.errors import ConfigError

CONFIGS = [SFTConfig, DPOConfig, GRPOConfig, RewardConfig, CPOConfig, ORPOConfig, KTOConfig, BCOConfig]


def wrong_values(config: type[Config], name: str) -> list[Any]:
    """Values that the field's annotation and limits do not allow."""
    info = config.model_fields[name]
    kinds = set(members_of(info))
    wrong: list[Any] = [object(), [[]]]
    if dict not in kinds:
        wrong.append({"a": 1})
    if dict in kinds:
        wrong += [3, "text"]
    if str not in kinds and name not in ("add_tokens", "add_special_tokens"):  # where one stands for a list of one
        wrong.append("certainly not")
    if kinds & {int, float}:
        wrong += [float("nan"), float("inf"), -5, True]
    if int in kinds and float not in kinds:
        wrong.append(1.5)
    if choices(info.annotation):
        wrong += [7, str(choices(info.annotation)[0]) + "x"]
    if type(None) not in kinds and name not in ("output_dir", "report_to"):
        wrong.append(None)
    return wrong


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_refuses_wrong_values_by_name(config: type[Config]) -> None:
    for name in config.model_fields:
        for value in wrong_values(config, name):
            with pytest.raises(ConfigError) as caught:
                config(**{name: value})
            text = str(caught.value)
            assert f"{name}=" in text, (name, value, text)
            assert f"{name} takes" in text, (name, value, text)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_default_passes_when_it_is_written_out(config: type[Config]) -> None:
    for name, info in config.model_fields.items():
        config(**{name: info.get_default(call_default_factory=True)})


@pytest.mark.parametrize("config", CONFIGS)
def test_every_misspelt_field_leads_back(config: type[Config]) -> None:
    for name in config.model_fields:
        with pytest.raises(ConfigError, match="did you mean"):
            config(**{name[:-1] + "q" + name[-1]: 1})


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_says_what_it_is(config: type[Config]) -> None:
    for name, info in config.model_fields.items():
        assert info.description, name
        assert info.json_schema_extra["group"], name


@pytest.mark.parametrize("config", CONFIGS)
def test_the_tables_hold_each_name_once_and_no_field(config: type[Config]) -> None:
    tables = [config.renamed, config.fixed, config.no_effect, config.unsupported]
    names = [name for table in tables for name in table]
    assert not set(names) & set(config.model_fields)
    assert sorted(names) == sorted(set(names)), [n for n in names if names.count(n) > 1]


@pytest.mark.parametrize("config", CONFIGS)
def test_fixed_names_take_their_values_and_no_other(config: type[Config]) -> None:
    for name, fixed in config.fixed.items():
        for value in fixed.values:
            config(**{name: value})
        with pytest.raises(ConfigError) as caught:
            config(**{name: "another"})
        assert fixed.reason in str(caught.value)


@pytest.mark.parametrize("config", CONFIGS)
def test_unsupported_names_say_what_to_do(config: type[Config]) -> None:
    for name, remedy in config.unsupported.items():
        with pytest.raises(ConfigError) as caught:
            config(**{name: None})
        assert "not supported here" in str(caught.value)
        assert remedy in str(caught.value)


@pytest.mark.parametrize("config", CONFIGS)
def test_names_without_effect_say_so(config: type[Config]) -> None:
    for name, reason in config.no_effect.items():
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            config(**{name: 2})
        assert [reason in str(note.message) for note in notes] == ([True] if reason else [])


@pytest.mark.parametrize(
    ("config", "old", "new"),
    [
        (SFTConfig, {"no_cuda": True}, {"use_cpu": True}),
        (SFTConfig, {"max_seq_length": 77}, {"max_length": 77}),
        (SFTConfig, {"evaluation_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        (SFTConfig, {"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        (SFTConfig, {"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        (SFTConfig, {"group_by_length": False}, {}),
        (SFTConfig, {"per_gpu_train_batch_size": 3}, {"per_device_train_batch_size": 3}),
        (SFTConfig, {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        (SFTConfig, {"overwrite_output_dir": True}, {}),
        (DPOConfig, {"max_prompt_length": 512, "max_completion_length": 256}, {}),
        (DPOConfig, {"rpo_alpha": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    ],
)
def test_old_names_work_and_give_the_new_one(config: type[Config], old: dict[str, Any], new: dict[str, Any]) -> None:
    with pytest.warns(FutureWarning) as notes:
        made = config(**old)
    assert made == config(**new)
    for name in new:
        assert name in str(notes[0].message)


def test_a_plain_synonym_is_taken_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SFTConfig(activation_checkpointing=True).gradient_checkpointing is True
        DPOConfig(precompute_ref_log_probs=True, padding_free=True, generate_during_eval=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "values",
    [
        {"max_seq_length": 5, "max_length": 6},
        {"max_length": 6, "max_seq_length": 5},
        {"no_cuda": True, "use_cpu": False},
    ],
)
def test_an_old_name_that_contradicts_the_new_one_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="contradicts"):
        SFTConfig(**values)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_wrong_value_under_an_old_name_names_the_old_one() -> None:
    with pytest.raises(ConfigError, match=r"SFTConfig\.warmup_ratio: warmup_steps=-1"):
        SFTConfig(warmup_ratio=-1)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SFTConfig, {"max_steps": 0}, "trains nothing"),
        (SFTConfig, {"save_steps": 1.5}, "neither a number of steps nor"),
        (SFTConfig, {"logging_steps": 2.5}, "neither a number of steps nor"),
        (SFTConfig, {"lr_scheduler_type": "constant", "warmup_steps": 5}, "constant_with_warmup"),
        (SFTConfig, {"lr_scheduler_type": "reduce_lr_on_plateau"}, "follows the evaluation"),
        (SFTConfig, {"optim": "schedule_free_adamw"}, "adamw_torch"),
        (SFTConfig, {"optim": "galore_adamw"}, "need each other"),
        (SFTConfig, {"fp16": True, "bf16": True}, "keep one"),
        (SFTConfig, {"accelerator_config": {"even": True}}, "split_batches"),
        (SFTConfig, {"dataloader_prefetch_factor": 4}, "dataloader_num_workers=1"),
        (SFTConfig, {"dataloader_in_order": False}, "could not be repeated"),
        (SFTConfig, {"report_to": "comet_ml"}, "use one of them"),
        (SFTConfig, {"report_to": ["comet_ml"]}, "use one of them"),
        (SFTConfig, {"save_only_model": True, "resume_from_checkpoint": True}, "save_only_model=False"),
        (SFTConfig, {"loss_type": "dft", "label_smoothing_factor": 0.1}, "no effect on loss_type=dft"),
        (SFTConfig, {"packing": True, "max_length": None}, "sets no size"),
        (SFTConfig, {"packing_strategy": "wrapped"}, "only together with packing=true"),
        (SFTConfig, {"dataset_kwargs": {"skip_prepare": True}}, "takes skip_prepare_dataset"),
        (SFTConfig, {"dataset_kwargs": {"skip_prepare_dataset": 3}}, "true or false"),
        (SFTConfig, {"dataset_kwargs": {"add_special_tokens": True}}, "would double"),
        (SFTConfig, {"completion_only_loss": True, "assistant_only_loss": False}, "leave one unset"),
        (SFTConfig, {"beta": 0.1}, "belongs to DPOConfig"),
        (SFTConfig, {"max_length": 1}, "at least 2"),
        (DPOConfig, {"loss_type": "kto_pair"}, "apo_zero"),
        (DPOConfig, {"loss_type": "aot"}, "no sum over pairs"),
        (DPOConfig, {"loss_type": ["sigmoid", "aot_pair"]}, "no sum over pairs"),
        (DPOConfig, {"loss_type": "simpo"}, "CPOTrainer"),
        (DPOConfig, {"loss_type": "nca_pear"}, "did you mean 'nca_pair'"),
        (DPOConfig, {"loss_type": "exo_pair"}, "label_smoothing above 0"),
        (DPOConfig, {"loss_type": "nca_pair", "f_divergence_type": "forward_kl"}, "leave nca_pair out"),
        (DPOConfig, {"f_divergence_type": "forward"}, "did you mean 'forward_kl'"),
        (DPOConfig, {"f_alpha_divergence_coef": 0.3}, "f_divergence_type=alpha_divergence"),
        (DPOConfig, {"discopop_tau": 0.1}, "an effect on discopop only"),
        (DPOConfig, {"ld_alpha": 1.5}, "at most 1"),
        (DPOConfig, {"ld_alpha": 0.5, "loss_type": "sft"}, "no effect on loss_type=sft"),
        (DPOConfig, {"use_weighting": True, "loss_type": "sft"}, "no effect on loss_type=sft"),
        (DPOConfig, {"ref_model_sync_steps": 5}, "only with sync_ref_model=true"),
        (DPOConfig, {"sync_ref_model": True, "loss_type": "sft"}, "no effect on loss_type=sft"),
        (DPOConfig, {"reference_free": True}, "CPOConfig has none"),
        (CPOConfig, {"loss_type": "simop"}, "did you mean 'simpo'"),
        (CPOConfig, {"loss_type": "hinge", "label_smoothing": 0.1}, "no effect on loss_type=hinge"),
        (CPOConfig, {"simpo_gamma": 1.0}, "simpo and alphapo only"),
        (CPOConfig, {"alpha": 0.1}, "overflows"),
        (CPOConfig, {"sync_ref_model": True}, "compared with no other model"),
        (ORPOConfig, {"loss_type": "sigmoid"}, "one loss"),
        (DPOConfig, {"loss_type": "sigmiod"}, "did you mean 'sigmoid'"),
        (DPOConfig, {"loss_type": []}, "empty list"),
        (DPOConfig, {"loss_type": ["sft", "sft"]}, "names a loss twice"),
        (DPOConfig, {"loss_weights": [1, 2]}, "2 values for 1 losses"),
        (DPOConfig, {"loss_weights": [0]}, "trains nothing"),
        (DPOConfig, {"loss_weights": [-1]}, "at least 0"),
        (DPOConfig, {"label_smoothing": 0.1}, "an effect on robust and exo_pair only"),
        (DPOConfig, {"label_smoothing": 0.5, "loss_type": "robust"}, "below 0.5"),
        (DPOConfig, {"beta": 0}, "above 0"),
        (DPOConfig, {"sync_ref_model": True, "precompute_ref_log_probs": True}, "keep one"),
        (DPOConfig, {"precompute_ref_log_probs": False, "precompute_ref_batch_size": 4}, "asked before training"),
        (SFTConfig, {"do_train": False}, "leave nothing to do"),
        (DPOConfig, {"assistant_only_loss": True}, "belongs to SFT"),
        (RewardConfig, {"gate": "gate.yaml"}, "a reward model writes none"),
        (RewardConfig, {"drift_steps": 5}, "a reward model writes none"),
        (RewardConfig, {"center_rewards_coefficient": -1}, "at least 0"),
        (RewardConfig, {"beta": 0.1}, "belongs to DPOConfig"),
    ],
)
def test_what_does_not_go_together(config: type[Config], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**values)
    assert message in str(caught.value)


def test_defaults_are_those_of_trl() -> None:
    sft, dpo = SFTConfig(), DPOConfig()
    assert (sft.learning_rate, sft.max_length, sft.num_train_epochs, sft.logging_steps) == (2e-5, 1024, 3.0, 10)
    assert (dpo.learning_rate, dpo.beta, dpo.loss_type, dpo.max_length) == (1e-6, 0.1, ["sigmoid"], 1024)
    assert sft.bf16 is None
    assert sft.gradient_checkpointing is None


def test_the_tutorial_s_fields_are_accepted() -> None:
    SFTConfig(
        learning_rate=8e-5, num_train_epochs=1, per_device_train_batch_size=1, gradient_accumulation_steps=8,
        gradient_checkpointing=False, logging_steps=2,
    )  # fmt: skip
    DPOConfig(
        beta=0.2, per_device_train_batch_size=1, gradient_accumulation_steps=8, num_train_epochs=1,
        learning_rate=5e-5, logging_steps=2,
    )  # fmt: skip


def test_eval_steps_follow_logging_steps() -> None:
    assert SFTConfig(eval_strategy="steps", logging_steps=7).eval_steps == 7
    assert SFTConfig(eval_strategy="steps", eval_steps=3).eval_steps == 3


def _of_trl(trl: typing.Any) -> list[typing.Any]:
    from trl.experimental.cpo import CPOConfig as TRLCPOConfig
    from trl.experimental.orpo import ORPOConfig as TRLORPOConfig

    return [
        trl.SFTConfig, trl.DPOConfig, trl.GRPOConfig, trl.RewardConfig, TRLCPOConfig, TRLORPOConfig, trl.KTOConfig,
    ]  # fmt: skip


def test_every_field_of_trl_is_accounted_for() -> None:
    """A field of TRL 1.16 is a field here, or stands in one of the tables: none is merely unknown."""
    trl = pytest.importorskip("trl", reason="trl is not installed; it comes with the test extra")
    for ours, theirs in zip(CONFIGS, _of_trl(trl)):  # TRL has no BCO any more
        known = {*ours.model_fields, *ours.renamed, *ours.fixed, *ours.no_effect, *ours.unsupported}
        assert sorted(set(theirs.__dataclass_fields__) - known) == []


def test_shared_defaults_equal_trl_s() -> None:
    """The same default wherever the field is the same, with the deviations that are meant."""
    trl = pytest.importorskip("trl", reason="trl is not installed; it comes with the test extra")
    meant = {
        "gradient_checkpointing", "assistant_only_loss", "output_dir", "optim", "report_to", "disable_tqdm", "run_name",
        "precompute_ref_log_probs", "auto_find_batch_size", "use_cache", "enable_jit_checkpoint", "ddp_timeout",
        "do_train", "debug", "per_device_eval_batch_size", "restore_callback_states_from_checkpoint",
    }  # fmt: skip
    for ours, theirs in zip(CONFIGS, _of_trl(trl)):
        for name, info in ours.model_fields.items():
            there = theirs.__dataclass_fields__.get(name)
            if there is None or name in meant:
                continue
            default = there.default_factory() if callable(there.default_factory) else there.default
            assert info.get_default(call_default_factory=True) == default, name


def test_annotations_are_plain_enough_for_flags() -> None:
    plain = {bool, int, float, str, dict, list, typing.Literal, type(None)}
    for config in CONFIGS:
        for name, info in config.model_fields.items():
            assert set(members_of(info)) <= plain, name

"""PPOConfig: TRL's defaults, the size of a rollout, what does not go together, and every name of the past."""

import dataclasses

import pytest

from posttrain.config.command import PPOCommand
from posttrain.config.ppo import PPOConfig
from posttrain.errors import ConfigError


def refused(*words, command=False, **fields):
    with pytest.raises(ConfigError) as error:
        (PPOCommand if command else PPOConfig)(**fields)
    for word in words:
        assert word in str(error.value)


def test_the_defaults_are_those_of_trls_last_ppo():
    made = PPOConfig()
    assert (made.learning_rate, made.num_ppo_epochs, made.num_mini_batches) == (3e-6, 4, 1)
    assert (made.kl_coef, made.kl_estimator, made.cliprange, made.cliprange_value) == (0.05, "k1", 0.2, 0.2)
    assert (made.vf_coef, made.gamma, made.lam, made.whiten_rewards) == (0.1, 1.0, 0.95, False)
    assert made.missing_eos_penalty is None


def test_a_rollout_worked_by_hand():
    made = PPOConfig(
        per_device_train_batch_size=4, gradient_accumulation_steps=3, num_mini_batches=5, num_generations=2
    )
    assert made.rollout_size() == 60
    assert made.steps_per_pass() == 5
    assert made.rollout_size(2) == 60  # on each of them


def test_common_fields_are_grpos():
    from posttrain.config.grpo import GRPOConfig
    from posttrain.config.online import OnlineConfig

    for config in (GRPOConfig, PPOConfig):
        assert set(OnlineConfig.model_fields) <= set(config.model_fields)
    own = set(PPOConfig.model_fields) - set(OnlineConfig.model_fields)
    assert not own & (set(GRPOConfig.model_fields) - {"kl_estimator"})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_generations": 3}, ("num_generations", "is not a multiple of 3")),
        ({"missing_eos_penalty": 1.0, "bootstrap_truncated": True}, ("keep one",)),
        ({"mask_truncated_completions": True, "missing_eos_penalty": 1.0}, ("keep one",)),
        ({"kl_target": 6.0, "kl_coef": 0.0}, ("kl_coef=0 stays 0",)),
        ({"kl_horizon": 500}, ("only together with kl_target",)),
        ({"kl_estimator": "k3", "kl_coef": 0.0}, ("only together with kl_coef above 0",)),
        ({"lam_alpha": 0.05, "lam": 0.9}, ("keep one",)),
        ({"early_stop_kl": 0.1, "num_ppo_epochs": 1}, ("several steps",)),
        ({"value_warmup_steps": 5, "weight_decay": 0.1}, ("would decay",)),
        ({"value_warmup_steps": 5, "max_steps": 5}, ("leaves none of max_steps=5",)),
        ({"max_kl": 0.1, "track_kl": False, "kl_coef": 0.0}, ("give kl_coef a value",)),
        ({"temperature": 0}, ("nothing could be learned",)),
        ({"beta": 0.1}, ("write kl_coef",)),
        ({"epsilon": 0.1}, ("write cliprange",)),
        ({"num_iterations": 2}, ("write num_ppo_epochs",)),
        ({"steps_per_generation": 2}, ("write num_mini_batches",)),
        ({"mini_batch_size": 2}, ("write num_mini_batches",)),
        ({"total_episodes": 1000}, ("write max_steps",)),
        ({"scale_rewards": "group"}, ("belongs to GRPO",)),
        ({"dynamic_sampling": True}, ("belongs to GRPO",)),
        ({"reward_model_path": "m"}, ("PPOTrainer(",)),
        ({"adap_kl_ctrl": True}, ("kl_target",)),
        ({"score_clip": 1.0}, ("score_clip",)),
        ({"klcoef": 0.1}, ("kl_coef",)),
        ({"gamma": 0.0}, ("gamma",)),
        ({"lam": 1.1}, ("lam",)),
    ],
)
def test_what_is_refused_and_with_which_words(fields, words):
    refused(*words, **fields)


@pytest.mark.parametrize(
    ("old", "now", "value"),
    [
        ("response_length", "max_completion_length", 53), ("ppo_epochs", "num_ppo_epochs", 2),
        ("init_kl_coef", "kl_coef", 0.2), ("target", "kl_target", 6.0), ("target_kl", "early_stop_kl", 0.5),
        ("exp_name", "run_name", "mine"),
    ],
)  # fmt: skip
def test_old_names_are_understood(old, now, value):
    with pytest.warns(FutureWarning, match=now):
        assert getattr(PPOConfig(**{old: value}), now) == value


def test_every_field_of_the_plan_of_advantages_comes_from_a_field():
    """An option that is accepted is not ignored (pitfall 35)."""
    from posttrain.sources.per_token import PerTokenPlan
    from posttrain.trainers.ppo import _per_token

    changed = {
        "gamma": 0.9, "lam": 0.8, "value_lam": 0.7, "kl_coef": 0.3, "kl_estimator": "k3", "kl_target": 2.0,
        "kl_horizon": 77, "whiten_rewards": True, "early_stop_kl": 0.5, "value_warmup_steps": 3,
    }  # fmt: skip
    made = _per_token(PPOConfig(**changed))
    assert {name: getattr(made, name) for name in changed} == changed
    others = {"lam_alpha": 0.1, "missing_eos_penalty": 1.0}
    assert dataclasses.asdict(_per_token(PPOConfig(**others))).items() >= others.items()
    assert _per_token(PPOConfig(bootstrap_truncated=True)).bootstrap_truncated
    assert _per_token(PPOConfig(mask_truncated_completions=True)).mask_truncated
    assert _per_token(PPOConfig()) == PerTokenPlan()


def test_the_command_has_the_trainers_arguments():
    made = PPOCommand(
        model="m", train_dataset="d", reward_funcs=["a", "b"], reward_weights=[1, 0], value_model="v", kl_coef=0.1,
        reward_options={"a": {"x": 1}},
    )  # fmt: skip
    assert made.rewards() == [{"name": "a", "x": 1}, "b"]
    assert made.training() == PPOConfig(reward_weights=[1, 0], kl_coef=0.1)
    refused("one weight for each", command=True, model="m", train_dataset="d",
            reward_funcs=["a"], reward_weights=[1, 2])  # fmt: skip
    refused("directory", command=True, model="m", train_dataset="d", reward_funcs=["a"], reward_model_path="r")

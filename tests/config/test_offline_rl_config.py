"""What `OfflineRLConfig` refuses, and what it decides."""

import pytest

from posttrain.config.command import OfflineRLCommand
from posttrain.config.offline_rl import OfflineRLConfig
from posttrain.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": "topr", "temperature": 0.5}, "temperature has an effect only with loss_type='awr'"),
        ({"loss_type": "raft", "max_weight": 5}, "max_weight has an effect only with loss_type='awr'"),
        ({"loss_type": "raft", "normalize_weights": False}, "normalize_weights has an effect only"),
        ({"reward_threshold": 0.5}, "reward_threshold has an effect only with loss_type='raft'"),
        ({"loss_type": "raft", "advantage_baseline": "data_mean"}, "advantage_baseline has no effect with"),
        ({"loss_type": "raft", "scale_rewards": "none"}, "scale_rewards has no effect with"),
        ({"baseline_quantile": 0.7}, "only with advantage_baseline='data_quantile'"),
        ({"baseline_decay": 0.7}, "only with advantage_baseline='data_running'"),
        ({"advantage_baseline": "data_mean", "scale_rewards": "group"}, "write data or none"),
        ({"scale_rewards": "batch"}, "write data, which is the same for all steps"),
        ({"control": "random-reward"}, "write shuffled-reward"),
        ({"loss_type": "ppo"}, "one of awr, raft, reinforce, topr"),
        ({"num_generations": 8}, "answers are read, not sampled"),
        ({"reward_funcs": "x"}, "posttrain grade"),
        ({"kl_estimator": "k1"}, "only 'k3'"),
        ({"beta": -1}, "at least 0"),
        ({"temperature": 0}, "above 0"),
        ({"aggregations": "token"}, "did you mean 'aggregation'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(fields, message):
    with pytest.raises(ConfigError, match=message):
        OfflineRLConfig(**fields)


def test_the_scale_follows_the_baseline_unless_it_is_given():
    assert OfflineRLConfig().scale == "group"
    assert OfflineRLConfig(advantage_baseline="data_running").scale == "data"
    assert OfflineRLConfig(scale_rewards="none").scale == "none"
    assert OfflineRLConfig(scale_rewards="none", advantage_baseline="data_mean").scale == "none"


def test_the_command_hands_its_fields_to_the_trainer():
    command = OfflineRLCommand(model="m", train_dataset="d.jsonl", loss_type="topr", beta=0.1, ref_model="r")
    assert command.training() == OfflineRLConfig(loss_type="topr", beta=0.1)
    assert command.ref_model == "r"
    assert OfflineRLConfig(**OfflineRLConfig(beta=0.2).to_dict()).beta == 0.2

"""What the trainer does as a whole: it learns what rewards tell, holds its anchor, measures, and refuses in time."""

import json
import math

import pytest
import torch
from jobs import REWARDED, weights_hash
from padded_rows import PAIRS, padded_logprobs
from tiny import build_model, build_tokenizer

from posttrain import OfflineRLConfig, OfflineRLTrainer, SFTConfig
from posttrain.errors import ConfigError, DataError, PosttrainError
from posttrain.stats.ranks import spearman
from posttrain.trainers.offline_rl_guards import OfflineRLGuards

# eight prompts with a better and a worse answer
ROWS = [
    {"prompt": pair["prompt"], "response": text, "reward": reward}
    for pair in PAIRS[:8]
    for text, reward in ((pair["rejected"], 0.0), (pair["chosen"], 1.0))
]


def build(tmp_path, rows=ROWS, model=None, ref_model=None, eval_rows=None, peft_config=None, **more):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 8, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "num_train_epochs": 1, "bf16": False, "learning_rate": 1e-3, "num_threads": 1,
        "max_tokens_per_pass": 500,
    } | more  # fmt: skip
    return OfflineRLTrainer(
        model=build_model("qwen2") if model is None else model, args=OfflineRLConfig(**settings), train_dataset=rows,
        eval_dataset=eval_rows, processing_class=build_tokenizer(), ref_model=ref_model, peft_config=peft_config,
    )  # fmt: skip


def logs(trainer, key="loss"):
    return [log[key] for log in trainer.state.log_history if key in log]


def answer_logprobs(model, rows):
    """The log-probability of each row's answer, from padded rows."""
    tokenizer = build_tokenizer()
    pieces = [(tokenizer(row["prompt"])["input_ids"], tokenizer(row["response"] + "<|endoftext|>")) for row in rows]
    with torch.no_grad():
        parts = padded_logprobs(model, [p + c["input_ids"] for p, c in pieces], [len(p) for p, _ in pieces])
    return [float(part.sum()) for part in parts]


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": "awr", "temperature": 0.3},
        {"loss_type": "raft"},
        {"loss_type": "topr"},
        {"loss_type": "reinforce", "beta": 0.3},
        {"loss_type": "awr", "temperature": 0.3, "advantage_baseline": "data_mean", "aggregation": "sequence"},
    ],
)
def test_eight_prompts_are_learned(tmp_path, settings):
    trainer = build(tmp_path, num_train_epochs=40, lr_scheduler_type="constant", **settings)
    before = answer_logprobs(trainer.model, ROWS)
    trainer.train()
    after = answer_logprobs(trainer.model, ROWS)
    margins = [(after[i + 1] - after[i]) - (before[i + 1] - before[i]) for i in range(0, 16, 2)]
    assert sum(margins) / 8 > 5
    assert sum(margin > 0 for margin in margins) >= 7
    assert all(now > then for now, then in zip(after[1::2], before[1::2]))


def test_with_shuffled_rewards_the_better_answers_are_not_learned(tmp_path):
    settings = {
        "num_train_epochs": 30,
        "loss_type": "topr",
        "lr_scheduler_type": "constant",
        "advantage_baseline": "data_mean",
    }
    gains = {}
    for control in ("none", "shuffled-reward"):
        trainer = build(tmp_path / control, control=control, **settings)
        before = answer_logprobs(trainer.model, ROWS)
        trainer.train()
        gained = [now - then for now, then in zip(answer_logprobs(trainer.model, ROWS), before)]
        gains[control] = sum(gained[1::2]) / 8 - sum(gained[0::2]) / 8
    assert gains["none"] > 10
    assert gains["shuffled-reward"] < gains["none"] / 3
    lines = [json.loads(line) for line in (tmp_path / "shuffled-reward" / "weights.jsonl").read_text().splitlines()]
    assert sorted(line["reward"] for line in lines) == [0.0] * 8 + [1.0] * 8


def test_the_loss_is_that_of_the_rows(tmp_path):
    """One step of all rows, from the log-probabilities of padded rows and weights by hand."""
    trainer = build(tmp_path, temperature=0.5, learning_rate=0.0, scale_rewards="none")
    sums = answer_logprobs(trainer.model, ROWS)
    trainer.train()
    tokenizer = build_tokenizer()
    counts = [len(tokenizer(row["response"] + "<|endoftext|>")["input_ids"]) for row in ROWS]
    weights = [math.e ** (1 if row["reward"] else -1) for row in ROWS]
    mean = sum(weights) / len(weights)
    expected = -sum(w / mean * s for w, s in zip(weights, sums)) / sum(counts)
    assert logs(trainer) == pytest.approx([expected], rel=1e-5)


ADAPTER = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.5}


@pytest.mark.parametrize(("arch", "peft_config"), [("gpt2", None), ("qwen2", ADAPTER)], ids=["full", "lora"])
def test_at_the_start_the_policy_is_its_own_reference(tmp_path, arch, peft_config):
    """With dropout in model or adapter, which is off."""
    dropout = {"resid_pdrop": 0.5, "attn_pdrop": 0.5} if arch == "gpt2" else {}
    trainer = build(
        tmp_path, model=build_model(arch, **dropout), peft_config=peft_config, loss_type="topr", beta=0.5,
        learning_rate=0.0,
    )  # fmt: skip
    trainer.train()
    assert logs(trainer, "kl") == pytest.approx([0.0], abs=1e-9)
    assert logs(trainer, "taper/mean") == pytest.approx([1.0], abs=1e-5)


def test_a_reference_given_is_the_one_used_and_is_not_changed(tmp_path):
    reference = build_model("qwen2", seed=1)
    before = weights_hash(reference)
    trainer = build(tmp_path, ref_model=reference, beta=0.1, learning_rate=0.0)
    trainer.train()
    assert logs(trainer, "kl")[0] > 0.1
    assert weights_hash(reference) == before


def test_the_anchor_holds_the_policy_near_the_reference(tmp_path):
    moved = []
    for beta in (0.001, 5.0):
        trainer = build(tmp_path / str(beta), beta=beta, loss_type="reinforce", num_train_epochs=20)
        trainer.train()
        moved.append(logs(trainer, "kl")[-1])
    assert moved[1] < moved[0] / 3


def test_a_reference_is_asked_only_where_the_loss_needs_it(tmp_path, monkeypatch):
    import posttrain.trainers.references as room

    calls = []
    plain = room.with_reference
    monkeypatch.setattr(room, "with_reference", lambda *a, **k: calls.append(1) or plain(*a, **k))
    build(tmp_path)
    build(tmp_path, loss_type="raft")
    assert not calls
    build(tmp_path, loss_type="topr")
    build(tmp_path, beta=0.1)
    assert len(calls) == 2


def samples(model, seed=0):
    """Lines of a run's samples, with the log-probabilities of the model that wrote them."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for group in range(4):
        prompt = torch.randint(3, 384, (3 + group,), generator=generator).tolist()
        for member in range(3):
            tokens = torch.randint(3, 384, (2 + member,), generator=generator).tolist()
            with torch.no_grad():
                (logprobs,) = padded_logprobs(model, [prompt + tokens], [len(prompt)])
            lines.append(
                {"prompt_ids": prompt, "completion_ids": tokens, "logprobs": logprobs.tolist(), "reward": member == 1}
            )
    return lines


def test_the_taper_is_against_the_policy_that_wrote_the_samples(tmp_path):
    """Their log-probabilities are in the file: no reference is asked, and the writer is as likely as itself."""
    model = build_model("qwen2")
    trainer = build(tmp_path, rows=samples(model), model=model, loss_type="topr", learning_rate=0.0)
    trainer.train()
    assert logs(trainer, "taper/mean") == pytest.approx([1.0], abs=1e-5)
    assert not (tmp_path / "reference").exists()
    other = samples(build_model("qwen2", seed=1))
    trainer = build(tmp_path, rows=other, model=build_model("qwen2"), loss_type="topr", learning_rate=0.0)
    trainer.train()
    assert logs(trainer, "taper/mean")[0] < 0.9


def test_evaluation_equals_the_step_and_says_whether_better_answers_are_likelier(tmp_path):
    trainer = build(tmp_path, eval_rows=ROWS, learning_rate=0.0, max_tokens_per_pass=40)
    trainer.train()
    sums = answer_logprobs(trainer.model, ROWS)
    tokenizer = build_tokenizer()
    means = [s / len(tokenizer(row["response"] + "<|endoftext|>")["input_ids"]) for s, row in zip(sums, ROWS)]
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(logs(trainer)[0], rel=1e-5)
    assert metrics["eval_pair_accuracy"] == sum(means[i + 1] > means[i] for i in range(0, 16, 2)) / 8
    assert metrics["eval_reward_weighted_logprob"] == pytest.approx(sum(means[1::2]) / 16, rel=1e-5)
    expected = spearman(means, [row["reward"] for row in ROWS])
    assert metrics["eval_rank_correlation"] == pytest.approx(expected)
    assert metrics["eval_rank_correlation/low"] <= expected <= metrics["eval_rank_correlation/high"]


def test_evaluation_keeps_answers_without_weight_and_the_true_rewards(tmp_path):
    trainer = build(tmp_path, eval_rows=ROWS, loss_type="raft", control="shuffled-reward", learning_rate=0.0)
    plain = build(tmp_path / "plain", eval_rows=ROWS, loss_type="raft", learning_rate=0.0)
    found = [t.evaluate() for t in (trainer, plain)]
    for metrics in found:
        metrics.pop("eval_runtime")
    assert found[0] == found[1]
    assert found[0]["eval_weights/mean"] == 0.5


def test_learning_raises_the_rank_correlation_on_the_rows_it_is_of(tmp_path):
    trainer = build(
        tmp_path,
        eval_rows=ROWS,
        loss_type="topr",
        num_train_epochs=40,
        lr_scheduler_type="constant",
        eval_on_start=True,
    )
    trainer.train()
    assert trainer.evaluate()["eval_pair_accuracy"] == 1.0
    assert logs(trainer, "eval_rank_correlation")[-1] > logs(trainer, "eval_rank_correlation")[0] + 0.3


def test_rows_with_weights_and_data_are_left_in_the_directory(tmp_path):
    rows = [*ROWS, {"prompt": "Tell me", "response": " no", "reward": 3.0}]
    build(tmp_path, rows=rows).train()
    lines = [json.loads(line) for line in (tmp_path / "weights.jsonl").read_text().splitlines()]
    assert len(lines) == 17
    assert lines[16]["advantage"] is None
    assert sum(line["weight"] for line in lines) == pytest.approx(16)
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["rows_read"] == 17
    assert data["rows_kept"] == 16
    assert data["dropped"]["without weight in the loss"]["count"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.1}, {"max_weight": 1.1}, {"normalize_weights": False}, {"aggregation": "sequence"},
        {"advantage_baseline": "leave_one_out"}, {"advantage_baseline": "data_mean"},
        {"advantage_baseline": "data_quantile", "baseline_quantile": 0.9}, {"advantage_baseline": "data_quantile"},
        {"advantage_baseline": "data_running"}, {"advantage_baseline": "data_running", "baseline_decay": 0.3},
        {"scale_rewards": "none"}, {"scale_rewards": "data"}, {"max_length": 12}, {"reward_column": "other"},
        {"loss_type": "raft"}, {"loss_type": "raft", "reward_threshold": 0.2}, {"loss_type": "reinforce"},
        {"loss_type": "topr"}, {"beta": 0.5}, {"control": "shuffled-reward"},
    ],
    ids=str,
)  # fmt: skip
def test_every_field_has_an_effect(tmp_path, changes, usual):
    trainer = one_run(tmp_path, **changes)
    assert weights_hash(trainer.model) != usual


def one_run(tmp_path, **changes):
    rows = [{**row, "other": 2 * i % 3} for i, row in enumerate(REWARDED)]
    reference = build_model("qwen2", seed=1) if "beta" in changes else None
    trainer = build(tmp_path, rows=rows, per_device_train_batch_size=4, ref_model=reference, max_steps=3, **changes)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return weights_hash(one_run(tmp_path_factory.mktemp("usual")).model)


def test_a_run_resumes_only_with_the_same_rewards(tmp_path):
    settings = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 2}
    build(tmp_path, **settings).train()
    changed = [{**row, "reward": row["reward"] * 1.5 + (i == 3)} for i, row in enumerate(ROWS)]
    with pytest.raises(PosttrainError, match="another set of rewards"):
        build(tmp_path, rows=changed, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    again = build(tmp_path, **settings)
    assert again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2")).global_step == 4


MODEL = "a/model/that/is/nowhere"  # what is wrong with the rest is told before anyone looks for it


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        (
            [{**ROWS[0], "reward": None}, ROWS[1]],
            {},
            DataError,
            r"1 of 2 rows have no finite number in 'reward': row 0",
        ),
        ([{"prompt": "a", "response": "b"}], {}, DataError, "hold no reward"),
        ([{"prompt": "a", "reward": 1.0}], {}, DataError, "row 0 of train_dataset: .*prompts without answers"),
        ([{**row, "reward": 1} for row in ROWS], {}, DataError, r"all 16 rewards are 1\. .*tells answers apart"),
        (ROWS[::2], {"loss_type": "raft", "reward_threshold": 0.5}, DataError, "no reward reaches"),
        ([ROWS[0], ROWS[3]], {}, DataError, "advantage_baseline='data_mean'"),
        ([], {}, DataError, "holds no rows"),
        ("missing.jsonl", {}, DataError, "there is no file"),
        (ROWS, {"max_length": 2}, DataError, "larger max_length"),
        (ROWS, {"eval_strategy": "epoch"}, ConfigError, "Pass an eval_dataset"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(tmp_path, rows, settings, error, message, monkeypatch):
    monkeypatch.setattr("posttrain.trainers.assembly.load_onto", lambda *a: pytest.fail("a model was loaded"))
    with pytest.raises(error, match=message):
        build(tmp_path, rows=rows, model=MODEL, **settings)


def test_arguments_that_do_not_fit_are_named(tmp_path):
    model = build_model("qwen2")
    with pytest.raises(ConfigError, match="takes an OfflineRLConfig"):
        OfflineRLTrainer(model=model, args=SFTConfig(), train_dataset=ROWS, processing_class=build_tokenizer())
    with pytest.raises(ConfigError, match="the very model that is trained"):
        build(tmp_path, model=model, ref_model=model, beta=0.1)
    with pytest.raises(ConfigError, match="ref_model is asked for nothing with loss_type='awr' and beta=0"):
        build(tmp_path, ref_model=build_model("qwen2", seed=1))
    with pytest.raises(PosttrainError, match="nowhere"):
        build(tmp_path, ref_model="nowhere/at/all", beta=0.1)


def test_a_reference_in_memory_goes_with_options_for_loading_the_model(tmp_path, tiny_model_dir):
    options = {"attn_implementation": "eager"}
    trainer = build(
        tmp_path, model=str(tiny_model_dir("qwen2")), ref_model=build_model("qwen2", seed=9), beta=0.1, max_steps=1,
        model_init_kwargs=options,
    )  # fmt: skip
    trainer.train()
    assert logs(trainer, "kl")[0] > 0.01
    with pytest.raises(PosttrainError, match=r"^ref_model: the tokenizer's ids go up to"):
        build(tmp_path, ref_model=build_model("qwen2", vocab_size=100), beta=0.1)


def history(better, worse, **more):
    return [
        {"step": i + 1, "learning_rate": 1e-3, "loss": -0.1, "logps/better": b, "logps/worse": w, **more}
        for i, (b, w) in enumerate(zip(better, worse))
    ]


FALLING = [-10, -10, -10, -11, -13, -20, -20, -20]


@pytest.mark.parametrize(
    ("better", "worse", "alarms"),
    [
        (FALLING, [2 * value for value in FALLING], ["displacement"]),
        ([-10] * 8, FALLING, []),  # what is worse may become unlikely
        (FALLING[:5], FALLING[:5], []),  # too early to say
        ([-100, -100, -100, -110, -110, -110, -110, -110], FALLING, []),  # ten nats are little of an answer that long
    ],
)
def test_better_answers_that_become_unlikely_raise_an_alarm(better, worse, alarms):
    raised = OfflineRLGuards()(history(better, worse))
    assert [alarm.name for alarm in raised] == alarms
    if alarms:
        assert "fell by 10.0 nats" in raised[0].text
        assert "(the worse ones by 20.0)" in raised[0].text


def test_the_loss_of_a_policy_gradient_may_be_negative_without_an_alarm():
    entries = [{"step": 0, "eval_loss": -0.5}, *history([-10] * 8, [-20] * 8), {"step": 8, "eval_loss": -0.55}]
    assert OfflineRLGuards(signed=True)(entries) == []
    entries[-2]["nonfinite_steps"] = 0.5
    assert [alarm.name for alarm in OfflineRLGuards(signed=True)(entries)] == ["instability"]


def test_a_run_that_unlearns_its_better_answers_says_so(tmp_path):
    """Nine of ten rewards are below the quantile, so that nearly everything is pushed away, without taper or anchor."""
    trainer = build(
        tmp_path, loss_type="reinforce", advantage_baseline="data_quantile", baseline_quantile=0.97,
        num_train_epochs=30, learning_rate=2e-3, lr_scheduler_type="constant",
        rows=[{**row, "reward": row["reward"] + (i == 1) * 0.1} for i, row in enumerate(ROWS)],
    )  # fmt: skip
    trainer.train()
    assert "displacement" in {log["alarm"] for log in trainer.state.log_history if "alarm" in log}

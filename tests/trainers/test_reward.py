"""Reward models as a whole: they learn, are scored by transformers as here, know what length alone would give."""

import json
import os
from pathlib import Path

import pytest
import torch
from padded_rows import PAIRS
from tiny import build_model, build_tokenizer
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, TrainerCallback

from posttrain import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer
from posttrain.algorithms.reward import RewardLoss, reward_batch, scored
from posttrain.engine.runtime import Runtime
from posttrain.engine.step import Budget, step
from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.models.layouts import LAYOUTS
from posttrain.models.score_loading import score_model_of
from posttrain.models.scoring import ScoreLearner
from posttrain.trainers.reward import scored_pairs
from posttrain.types import Segment


def tokens(seed, count):
    return torch.randint(2, 384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


ROWS = [(tokens(i, 2 + i), tokens(50 + i, 1 + (2 * i) % 5), tokens(90 + i, 1 + i % 6), i / 4) for i in range(6)]


def padded_loss(model, centre):
    """One padded batch through transformers' own forward, and the formula as it stands in the papers."""
    rows = [prompt + answer for prompt, *answers, _ in ROWS for answer in answers]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    scores = model(input_ids=ids, attention_mask=mask).logits[:, 0]
    chosen, rejected = scores[0::2], scores[1::2]
    margin = torch.tensor([row[3] for row in ROWS])
    return (-logsigmoid(chosen - rejected - margin) + centre * (chosen + rejected) ** 2).mean()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_a_step_equals_a_slow_padded_computation(max_tokens, layout):
    model = score_model_of(build_model("qwen3"))
    model.config.pad_token_id = 1
    model.score.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    trees = []
    for prompt, chosen, rejected, margin in ROWS:
        leaves = [Segment(tokens=answer, trained=[(0, len(answer))]) for answer in (chosen, rejected)]
        trees.append(scored(Segment(tokens=prompt, children=leaves), margin))
    learner = ScoreLearner(model, layout=layout)
    result = step(
        learner, reward_batch(trees), RewardLoss(centre=0.05),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0), runtime=Runtime(use_cpu=True),
        budget=Budget(max_tokens=max_tokens), max_grad_norm=0.0,
    )  # fmt: skip
    learner.release()
    assert result.passes > 1 or max_tokens > 40
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected = padded_loss(model, 0.05)
    expected.backward()
    assert result.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: n + m)


def reward(directory, model, rows=PAIRS, tokenizer=None, peft_config=None, eval_dataset=None, **more):
    settings = {
        "output_dir": str(directory), "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "num_train_epochs": 1, "bf16": False, **more,
    }  # fmt: skip
    return RewardTrainer(
        model=model, args=RewardConfig(**settings), train_dataset=rows, eval_dataset=eval_dataset,
        processing_class=tokenizer or build_tokenizer(), peft_config=peft_config,
    )  # fmt: skip


def plain_scores(directory, texts):
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    # AutoTokenizer would split digits as the tokenizers of Qwen do, which this one is none of
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("pad", ["<|endoftext|>", None])
def test_it_learns_eight_pairs_and_transformers_scores_them_alike(tmp_path, lora, pad, tiny_model_dir):
    """From a language model whose tokenizer's pad token is its end of text, or that has none."""
    adapter = {"r": 8, "lora_alpha": 16} if lora else None
    trainer = reward(
        tmp_path / "run", tiny_model_dir("qwen2"), PAIRS[:8], build_tokenizer(pad_token=pad), adapter,
        eval_dataset=PAIRS[:8], num_train_epochs=20, learning_rate=1e-2 if lora else 3e-3,
    )  # fmt: skip
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0] == pytest.approx(0.6931, abs=0.05)  # a fresh head prefers nothing
    assert losses[-1] < 0.1
    measured = trainer.evaluate()
    assert measured["eval_accuracy"] == 1.0
    assert {"eval_margin", "eval_min_reward", "eval_mean_reward", "eval_max_reward"} <= measured.keys()
    trainer.save_model(tmp_path / "model")
    rows = [row["prompt"] + row[side] + "<|endoftext|>" for row in PAIRS[:8] for side in ("chosen", "rejected")]
    scores = plain_scores(tmp_path / "model", rows)
    assert measured["eval_margin"] == pytest.approx(float((scores[0::2] - scores[1::2]).mean()), abs=1e-5)
    assert measured["eval_mean_reward"] == pytest.approx(float(scores.mean()), abs=1e-5)


def test_held_out_pairs_are_measured_beside_length_alone(tmp_path):
    rows = [{"prompt": "Who?", "chosen": " I am" * (i + 2), "rejected": " I am" * (i + 1)} for i in range(8)]
    shorter = [{"prompt": "Who?", "chosen": " fox", "rejected": " fox fox"}] * 2 + rows[:2]
    trainer = reward(tmp_path, build_model("qwen2"), rows, eval_dataset=shorter, num_train_epochs=2)
    trainer.train()
    measured = trainer.evaluate()
    assert measured["eval_length_accuracy"] == 0.5  # the longer answer, as in the rows that are trained on
    found = trainer.held_out
    assert found.longer
    assert found.accuracy.n == sum(b.count for b in found.reliability.bins) == 4
    kept = json.loads((tmp_path / "calibration.json").read_text())
    assert kept["brier"] == measured["eval_brier"]
    assert found.alike is None or found.alike.n <= 4
    assert "not distinguishable from length alone" in found.text()


def test_a_reward_model_is_trained_on_from_its_own_head_and_pad_token(tmp_path):
    first = reward(tmp_path / "a", build_model("qwen2"), num_train_epochs=10, learning_rate=3e-3)
    first.train()
    first.save_model(tmp_path / "model")
    again = reward(tmp_path / "b", str(tmp_path / "model"), learning_rate=0.0)
    again.train()
    assert again.processing_class.pad_token == "<|im_start|>"
    last, first_again = (t.state.log_history for t in (first, again))
    assert first_again[0]["loss"] < 0.6 * first.state.log_history[0]["loss"]
    assert last[-2]["accuracy"] >= 0.75


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ([PAIRS[0], {**PAIRS[1], "margin": "much"}], DataError, "the margin is 'much'"),  # the first row lacks it
        ([{**PAIRS[0], "margin": "much"}], DataError, "the margin is 'much'"),
        ([{**PAIRS[0], "margin": float("nan")}], DataError, "the margin is nan"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], DataError, "chosen equals rejected"),
        ([{"prompt": "a"}], DataError, "'chosen' and 'rejected'"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_named(rows, error, said):
    with pytest.raises(error, match=said):
        scored_pairs(rows, build_tokenizer(), None)


def test_margins_count_in_rows_that_have_one():
    for rows in ([PAIRS[0], {**PAIRS[1], "margin": 1.5}], [{**PAIRS[1], "margin": 1.5}, PAIRS[0]]):
        found = scored_pairs(rows, build_tokenizer(), None)
        margins = reward_batch(found.trees).margin.tolist()
        assert margins == [row.get("margin", 0.0) for row in rows]
        assert any("'margin'" in note for note in found.report.notes)
        assert "margin" not in found.report.ignored_columns


def test_pairs_that_are_too_long_are_left_out_whole_and_counted():
    found = scored_pairs(PAIRS, build_tokenizer(), 30)
    (reason,) = found.report.dropped
    assert reason == "prompt and answer are longer than max_length"
    assert len(found) == len(PAIRS) - found.report.dropped[reason].count
    assert 0 < len(found) < len(PAIRS)
    assert found.report.lengths["longest"] <= 30
    assert found.report.truncated == 0


def test_a_checker_is_recommended_where_rows_have_an_answer(tmp_path, capsys):
    reward(tmp_path, build_model("qwen2"), [{**row, "ground_truth": "7"} for row in PAIRS])
    assert "column 'ground_truth': where an answer can be checked, a checker is exact" in capsys.readouterr().out
    judged = {"_provenance": {"chosen": {"scores": {"final_answer": 1.0}}}}
    reward(tmp_path, build_model("qwen2"), [{**row, **judged} for row in PAIRS])
    assert "judged by 'final_answer': where" in capsys.readouterr().out
    liked = {"_provenance": {"chosen": {"scores": {"judge": 1.0}}}}
    reward(tmp_path, build_model("qwen2"), [{**row, **liked} for row in PAIRS])
    assert "checker" not in capsys.readouterr().out
    reward(tmp_path, build_model("qwen2"))
    assert "checker" not in capsys.readouterr().out


def test_what_cannot_be_a_reward_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="takes a RewardConfig"):
        RewardTrainer(model=build_model("qwen2"), args=GRPOConfig(), train_dataset=PAIRS)
    with pytest.raises(ConfigError, match="a reward model needs 'SEQ_CLS'"):
        reward(tmp_path, build_model("qwen2"), peft_config={"r": 4, "task_type": "CAUSAL_LM"})
    with pytest.raises(ModelError, match="no sequence classifier"):
        reward(tmp_path, build_model("granite"))


def test_grpo_climbs_the_scores_of_a_reward_model(tmp_path):
    trainer = reward(tmp_path / "rm", build_model("qwen2"), num_train_epochs=6, learning_rate=3e-3)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    grpo = GRPOTrainer(
        model=build_model("qwen2"), reward_funcs=str(tmp_path / "model"), processing_class=build_tokenizer(),
        train_dataset=[{"prompt": row["prompt"]} for row in PAIRS[:4]],
        args=GRPOConfig(
            output_dir=str(tmp_path / "grpo"), per_device_train_batch_size=16, num_generations=4, max_steps=6,
            max_completion_length=8, learning_rate=3e-3, logging_steps=1, use_cpu=True, bf16=False, save_strategy="no",
        ),
    )  # fmt: skip
    grpo.train()
    means = [log["rewards/reward_model/mean"] for log in grpo.state.log_history if "reward" in log]
    assert sum(means[-2:]) > sum(means[:2])
    first = json.loads((tmp_path / "grpo" / "samples.jsonl").read_text().splitlines()[0])
    ended = first["completion"].removesuffix("<|endoftext|>") + "<|endoftext|>"
    expected = float(plain_scores(tmp_path / "model", [first["prompt"] + ended])[0])
    assert first["rewards"]["reward_model"] == pytest.approx(expected, abs=1e-4)


class StopAtTwo(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_public_preferences_train_resume_and_are_scored_by_transformers_alike(tmp_path):
    folder = os.environ.get("POSTTRAIN_DATA")
    if not folder:
        pytest.skip("POSTTRAIN_DATA does not name the folder of public datasets")
    file = str(Path(folder) / "llamafactory_demo" / "dpo_en_demo.json")

    def build(name, callbacks=None):
        return RewardTrainer(
            model=build_model("qwen2"),
            args=RewardConfig(
                output_dir=str(tmp_path / name), per_device_train_batch_size=4, max_steps=4, save_steps=2,
                max_length=500, logging_steps=1, use_cpu=True, bf16=False, learning_rate=1e-3,
                lr_scheduler_type="constant",
            ),
            train_dataset=file, processing_class=build_tokenizer(), callbacks=callbacks,
        )  # fmt: skip

    whole = build("whole")
    whole.train()
    report = whole.data_report
    assert report.rows_read == report.rows_kept + sum(rows.count for rows in report.dropped.values()) == 300
    build("part", [StopAtTwo()]).train()
    resumed = build("part")
    resumed.train(resume_from_checkpoint=True)
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    resumed.save_model(tmp_path / "model")
    pairs = scored_pairs(file, resumed.processing_class, 500)
    learner = ScoreLearner(resumed.model)
    mine = learner(reward_batch(pairs.trees[:4]).forest).scores
    rows = [[*tree.tokens, *leaf.tokens] for tree in pairs.trees[:4] for leaf in tree.leaves()]
    texts = [resumed.processing_class.decode(row) for row in rows]
    torch.testing.assert_close(plain_scores(tmp_path / "model", texts), mine.detach(), rtol=1e-5, atol=1e-5)

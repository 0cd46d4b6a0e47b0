"""What the fields of evaluation and of reading rows do to a run; each effect is seen from outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from padded_rows import CONVERSATIONS, PAIRS
from tiny import build_model, build_tokenizer

from posttrain import (
    CPOConfig,
    CPOTrainer,
    DPOConfig,
    DPOTrainer,
    OfflineRLConfig,
    ORPOConfig,
    ORPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from posttrain.errors import CheckpointError, ConfigError
from posttrain.sources.ahead import AheadSource
from posttrain.sources.offline import OfflineSource
from posttrain.types import Segment, TokenForest

BOTH = {"processing_class": None}


def fields(tmp_path, more):
    return {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
        "save_strategy": "no", "max_steps": 4, "bf16": False, "learning_rate": 1e-3,
    } | more  # fmt: skip


def sft(tmp_path, *, evaluation=CONVERSATIONS[:5], compute_metrics=None, preprocess=None, train=CONVERSATIONS, **more):
    return SFTTrainer(
        model=build_model("llama"), args=SFTConfig(**fields(tmp_path, more)), train_dataset=train,
        eval_dataset=evaluation, processing_class=build_tokenizer(), compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess,
    )  # fmt: skip


def dpo(tmp_path, **more):
    ref_model = more.pop("ref_model", None)
    return DPOTrainer(
        model=build_model("llama"), ref_model=ref_model, args=DPOConfig(**fields(tmp_path, more)),
        train_dataset=PAIRS, eval_dataset=PAIRS[:4], processing_class=build_tokenizer(),
    )  # fmt: skip


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def forests(trainer):
    """The forests that the learner is given from now on."""
    seen = []
    trainer._learner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    return seen


def same(metrics):
    return {name: value for name, value in metrics.items() if name != "eval_runtime"}


def test_an_evaluation_pass_holds_so_many_rows_and_gives_the_same(tmp_path):
    whole = sft(tmp_path / "whole").evaluate()
    few = sft(tmp_path / "few", per_device_eval_batch_size=2)
    seen = forests(few)
    assert same(few.evaluate()) == pytest.approx(same(whole), abs=1e-5)
    assert [len(forest.leaves) for forest in seen] == [2, 2, 1]
    pairs = dpo(tmp_path / "pairs", per_device_eval_batch_size=3)
    seen = forests(pairs)
    pairs.evaluate()
    assert [len(forest.leaves) for forest in seen] == [6, 2]  # a pair has two


def test_the_loss_alone_is_returned_where_that_is_asked_for(tmp_path):
    trainer = sft(tmp_path, prediction_loss_only=True)
    assert set(trainer.evaluate()) == {"eval_loss", "eval_runtime"}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(sft(tmp_path).evaluate()["eval_loss"])
    assert "eval_mean_token_accuracy" in sft(tmp_path).evaluate()


@pytest.mark.parametrize(("field", "dtype"), [("bf16_full_eval", torch.bfloat16), ("fp16_full_eval", torch.float16)])
def test_an_evaluation_in_half_precision_computes_in_it_and_training_does_not(tmp_path, field, dtype):
    seen = []

    def look(logits, labels):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return logits.argmax(dim=-1)

    half = sft(tmp_path, compute_metrics=lambda prediction: {}, preprocess=look, **{field: True})
    evaluated = half.evaluate()["eval_loss"]
    plain = sft(tmp_path).evaluate()["eval_loss"]
    assert set(seen) == {dtype}
    assert evaluated != plain
    assert evaluated == pytest.approx(plain, rel=1e-2)
    assert half._runtime.autocast_dtype is None


def test_compute_metrics_is_given_logits_one_place_before_their_labels(tmp_path):
    given = []
    trainer = sft(tmp_path, compute_metrics=lambda p: given.append(p) or {"right": 1, "eval_own": 2})
    metrics = trainer.evaluate()
    assert (metrics["eval_right"], metrics["eval_own"]) == (1.0, 2.0)
    (prediction,) = given
    rows, width = prediction.label_ids.shape
    assert rows == 5
    assert prediction.predictions.shape[:2] == (rows, width)
    trained = prediction.label_ids[:, 1:] != -100
    table = torch.tensor(prediction.predictions[:, :-1][trained]).log_softmax(dim=-1)
    chosen = table[torch.arange(len(table)), torch.tensor(prediction.label_ids[:, 1:][trained])]
    assert float(-chosen.mean()) == pytest.approx(metrics["eval_loss"], rel=1e-5)
    right = (table.argmax(dim=-1).numpy() == prediction.label_ids[:, 1:][trained]).mean()
    assert right == pytest.approx(metrics["eval_mean_token_accuracy"])
    assert prediction.inputs is None
    assert prediction.losses is None


def test_compute_metrics_is_given_inputs_and_losses_where_they_are_named(tmp_path):
    given = []
    trainer = sft(
        tmp_path, include_for_metrics=["inputs", "loss"], compute_metrics=lambda p: given.append(p) or {},
        preprocess=lambda logits, labels: logits.argmax(dim=-1), per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer.evaluate()
    (prediction,) = given
    assert prediction.predictions.shape == prediction.label_ids.shape == prediction.inputs.shape
    trained = prediction.label_ids != -100
    assert (prediction.inputs[trained] == prediction.label_ids[trained]).all()
    assert prediction.losses.shape == (5,)
    weights = trained.sum(axis=1)
    loss = trainer.evaluate()["eval_loss"]
    assert float(np.average(prediction.losses, weights=weights)) == pytest.approx(loss, rel=1e-5)


def test_metrics_are_computed_batch_by_batch_or_on_a_list_of_batches(tmp_path):
    calls = []

    def by_batch(prediction, compute_result):
        calls.append((len(prediction.label_ids), compute_result))
        return {"calls": len(calls)} if compute_result else {}

    trainer = sft(tmp_path, batch_eval_metrics=True, per_device_eval_batch_size=2, compute_metrics=by_batch)
    assert trainer.evaluate()["eval_calls"] == 3
    assert calls == [(2, False), (2, False), (1, True)]
    shapes = []
    trainer = sft(
        tmp_path, eval_do_concat_batches=False, per_device_eval_batch_size=2,
        compute_metrics=lambda p: shapes.extend(len(labels) for labels in p.label_ids) or {},
    )  # fmt: skip
    trainer.evaluate()
    assert shapes == [2, 2, 1]


def test_threads_lay_batches_out_ahead_and_the_run_is_the_same(tmp_path):
    plain = sft(tmp_path / "plain", save_strategy="steps", save_steps=2)
    plain.train()
    ahead = sft(tmp_path / "ahead", save_strategy="steps", save_steps=2, dataloader_num_workers=2)
    ahead.train()
    assert losses(ahead) == losses(plain)
    resumed = sft(tmp_path / "ahead", save_strategy="steps", save_steps=2, dataloader_num_workers=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "ahead" / "checkpoint-2"))
    assert losses(resumed) == losses(plain)
    with pytest.raises(ConfigError, match="laid out ahead"):
        dpo(tmp_path / "dpo", dataloader_num_workers=1, sync_ref_model=True)


@pytest.mark.parametrize(("workers", "prefetch", "laid"), [(1, 1, 2), (1, 2, 3), (2, 3, 7)])
def test_so_many_batches_are_laid_out_when_the_first_is_given_out(workers, prefetch, laid):
    built = []

    def build(trees):
        built.append(len(trees))
        return trees

    trees = [Segment(tokens=[1, 2, 3], trained=[(1, 3)])] * 40
    plain = OfflineSource(trees, build, rows_per_step=2, seed=0)
    source = AheadSource(plain, workers=workers, prefetch=prefetch)
    source.next()
    source._pool.shutdown()
    assert len(built) == laid
    assert source.state_dict()["step"] == 1
    assert source.epoch == 1 / 20


def test_an_epoch_that_is_left_early_is_left_ahead_too():
    trees = [Segment(tokens=[1, 2, 3 + i], trained=[(1, 3)]) for i in range(8)]
    sources = [OfflineSource(trees, TokenForest.from_trees, rows_per_step=2, seed=0) for _ in range(2)]
    ahead = AheadSource(sources[0], workers=1)
    for source in (ahead, sources[1]):
        source.next()
        source.end_epoch()
    assert ahead.epoch == sources[1].epoch == 1.0
    assert torch.equal(ahead.next().tokens, sources[1].next().tokens)


def test_a_resumed_run_goes_on_where_it_stood_or_begins_its_epoch_anew(tmp_path):
    trained = {}
    first = sft(tmp_path, save_strategy="steps", save_steps=1, max_steps=2)
    first.train()
    for ignore in (False, True):
        again = sft(tmp_path, save_strategy="steps", save_steps=1, max_steps=2, ignore_data_skip=ignore)
        seen = forests(again)
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
        trained[ignore] = seen[-1].tokens.tolist()
    seen = forests(first)
    first.train()
    assert trained[False] == seen[1].tokens.tolist()
    assert trained[True] == seen[0].tokens.tolist()


def test_rows_are_grouped_by_a_column_of_lengths_where_there_is_one(tmp_path):
    rows = [
        {"prompt": "a", "completion": f" word {i}", "length": i, "own": -i} for i in range(8)
    ]  # as long as each other in tokens
    seen = {}
    for column in ("length", "own"):
        trainer = sft(
            tmp_path, train=rows, evaluation=None, train_sampling_strategy="group_by_length", max_steps=8,
            length_column_name=column, per_device_train_batch_size=1,
        )  # fmt: skip
        forests_ = forests(trainer)
        trainer.train()
        seen[column] = [trainer.processing_class.decode(forest.tokens) for forest in forests_]
    assert seen["length"] == sorted(seen["length"], reverse=True)
    assert seen["own"] == sorted(seen["own"])


def test_other_lengths_are_another_order_to_a_resumed_run():
    trees = [Segment(tokens=[1, 2, 3], trained=[(1, 3)]) for _ in range(4)]

    def source(lengths):
        return OfflineSource(trees, len, rows_per_step=1, seed=0, strategy="group_by_length", lengths=lengths)

    source([1, 2, 3, 4]).load_state_dict(source([1.0, 2.0, 3.0, 4.0]).state_dict())
    for other in ([4, 3, 2, 1], None):
        with pytest.raises(CheckpointError, match="column of lengths"):
            source(other).load_state_dict(source([1, 2, 3, 4]).state_dict())


@pytest.mark.parametrize(
    ("trainer", "config"), [(CPOTrainer, CPOConfig), (ORPOTrainer, ORPOConfig), (RewardTrainer, RewardConfig)]
)
def test_pairs_without_a_reference_are_grouped_by_their_column_too(tmp_path, trainer, config):
    rows = [{"prompt": "a", "chosen": f" word {i}", "rejected": " no", "own": -i} for i in range(8)]
    options = {"train_sampling_strategy": "group_by_length", "length_column_name": "own", "max_steps": 8}
    made = trainer(
        model=build_model("llama"), args=config(**fields(tmp_path, options | {"per_device_train_batch_size": 1})),
        train_dataset=rows, processing_class=build_tokenizer(),
    )  # fmt: skip
    seen = forests(made)
    made.train()
    texts = [made.processing_class.decode(forest.tokens) for forest in seen]
    assert texts == sorted(texts)


@pytest.mark.parametrize(("trainer", "config"), [(CPOTrainer, CPOConfig), (ORPOTrainer, ORPOConfig)])
def test_metrics_of_pairs_without_a_reference_are_computed_as_asked(tmp_path, trainer, config):
    given = []

    def compute(prediction, compute_result):
        given.append(prediction)
        return {"batches": len(given)} if compute_result else {}

    options = {"batch_eval_metrics": True, "per_device_eval_batch_size": 2, "include_for_metrics": ["inputs"]}
    made = trainer(
        model=build_model("llama"), args=config(**fields(tmp_path, options)), train_dataset=PAIRS,
        eval_dataset=PAIRS[:4], processing_class=build_tokenizer(), compute_metrics=compute,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )  # fmt: skip
    assert made.evaluate()["eval_batches"] == 2
    assert all(one.predictions.shape == one.inputs.shape for one in given)


@pytest.mark.parametrize("config", [RewardConfig, OfflineRLConfig])
@pytest.mark.parametrize(
    "setting", [{"include_for_metrics": ["loss"]}, {"batch_eval_metrics": True}, {"eval_do_concat_batches": False}]
)
def test_what_compute_metrics_is_given_is_refused_where_there_is_none(config, setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}=.* leave it out"):
        config(**setting)


def test_a_column_of_lengths_is_refused_for_prompts_with_several_answers():
    with pytest.raises(ConfigError, match="length_column_name='own': several answers"):
        OfflineRLConfig(length_column_name="own")


def test_a_reference_is_asked_at_each_step_and_gives_the_same(tmp_path):
    for more in ({}, {"ref_model": build_model("llama", seed=1)}):
        before = dpo(tmp_path / "before", **more)
        before.train()
        now = dpo(tmp_path / "now", precompute_ref_log_probs=False, **more)
        assert not (tmp_path / "now" / "reference").exists()
        now.train()
        assert losses(now) == pytest.approx(losses(before), abs=1e-6)
        assert same(now.evaluate()) == pytest.approx(same(before.evaluate()), abs=1e-5)
    assert (tmp_path / "before" / "reference").exists()
    assert more["ref_model"].config._attn_implementation == "sdpa"


def test_the_reference_is_asked_so_many_pairs_at_a_time(tmp_path):
    reference, sizes = build_model("llama", seed=1), {}
    for rows in (None, 2):
        calls = []
        handle = reference.model.register_forward_pre_hook(
            lambda module, args, kwargs, calls=calls: calls.append(1), with_kwargs=True
        )
        dpo(tmp_path / str(rows), ref_model=reference, precompute_ref_batch_size=rows)
        handle.remove()
        sizes[rows] = len(calls)
    assert sizes[2] >= len(PAIRS) // 2
    assert sizes[2] > sizes[None]

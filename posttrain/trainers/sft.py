"""`SFTTrainer`: supervised fine-tuning, with the constructor of TRL's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers import TrainerCallback

from posttrain.algorithms.sft import SFTLoss, sft_batch
from posttrain.config.sft import SFTConfig
from posttrain.data.loading import load_rows
from posttrain.data.packing import WHOLE_ROWS, noted, pack, padding_note, shuffled
from posttrain.data.trees import TreeSet, sft_trees
from posttrain.errors import ConfigError
from posttrain.trainers.assembly import assemble, resolve_tokenizer
from posttrain.trainers.lengths import column_of_lengths, of_trees
from posttrain.trainers.offline import offline_plan
from posttrain.trainers.predictions import Predictions
from posttrain.trainers.streaming import is_streamed, stream_of
from posttrain.trainers.trainer import Trainer


class SFTTrainer(Trainer):
    """Trains a model to give the answers in a dataset.

        trainer = SFTTrainer(model="path/or/name", args=SFTConfig(...), train_dataset=rows, processing_class=tokenizer)
        trainer.train()

    `model` is a path, a name or a loaded causal language model; `train_dataset` a `datasets.Dataset`, a list of rows
    or a file. `peft_config` trains a LoRA adapter instead of all weights. `formatting_func` turns a row into text.
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        formatting_func: Callable[[Any], str] | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Callable[..., Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
    ) -> None:
        config = args or SFTConfig()
        if not isinstance(config, SFTConfig):
            raise ConfigError(f"args is a {type(config).__name__}; SFTTrainer takes an SFTConfig of posttrain")
        tokenizer = resolve_tokenizer(model, processing_class, config)

        whole_rows = config.packing_strategy in WHOLE_ROWS

        def read(dataset: Any, name: str, packing: bool) -> TreeSet | None:
            if dataset is None:
                return None
            rows = dataset
            made = None if formatting_func is None else partial(_as_text, formatting_func, config.dataset_text_field)
            make = partial(
                sft_trees, tokenizer=tokenizer, max_length=None if packing and whole_rows else config.max_length,
                truncation_mode=config.truncation_mode, long_rows=config.long_rows,
                assistant_only_loss=config.assistant_only_loss, completion_only_loss=config.completion_only_loss,
                dataset_text_field=config.dataset_text_field,
                prepared=bool((config.dataset_kwargs or {}).get("skip_prepare_dataset")),
                processes=config.dataset_num_proc, name=name,
            )  # fmt: skip
            if name == "train_dataset" and is_streamed(dataset, config):
                return stream_of(dataset, make, config, change=made)
            if made is not None:
                rows = load_rows([made(row) for row in load_rows(dataset, name=name)], name=name)
            found = make(rows)
            if config.shuffle_dataset:
                found = shuffled(found, config.seed)
            if packing or config.padding_free:
                found = noted(found, padding_note(found, config.per_device_train_batch_size))
            if packing and config.max_length is not None:
                found = pack(found, max_length=config.max_length, strategy=config.packing_strategy)
            return found

        packing = config.packing if config.eval_packing is None else config.eval_packing
        train_dataset, lengths = column_of_lengths(train_dataset, config)
        train = read(train_dataset, "train_dataset", config.packing)
        evaluation = read(eval_dataset, "eval_dataset", packing)
        assembled = assemble(
            model, tokenizer, config, train=train, evaluation=evaluation, peft_config=peft_config, callbacks=callbacks
        )
        loss = SFTLoss(loss_type=config.loss_type, label_smoothing_factor=config.label_smoothing_factor)
        predictions = None
        if compute_metrics is not None:
            predictions = Predictions(assembled, compute_metrics, preprocess_logits_for_metrics)
        plan = offline_plan(
            assembled, train=train, evaluation=evaluation, build=sft_batch, loss=loss, needs=loss.needs,
            predictions=predictions, lengths=None if config.packing else of_trees(lengths, train),
        )  # fmt: skip
        super().__init__(assembled, plan, tokenizer=tokenizer, callbacks=callbacks, optimizers=optimizers)


def _as_text(formatting_func: Callable[[Any], str], column: str, row: Any) -> dict[str, str]:
    return {column: formatting_func(row)}

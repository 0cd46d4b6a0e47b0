"""The names of TRL's reward modelling and of its older versions that are no fields of `RewardConfig`.

The tables are read as those of `posttrain/config/names.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.config.names import (
    TRAINING_FIXED,
    TRAINING_NO_EFFECT,
    TRAINING_RENAMED,
    TRAINING_UNSUPPORTED,
    Fixed,
    Renamed,
    gone,
    now,
)

REWARD_RENAMED: Mapping[str, Renamed] = {
    **TRAINING_RENAMED,
    "max_seq_length": now("max_length"),
    "max_seq_len": now("max_length"),
    "max_prompt_length": gone("a pair with a row longer than max_length is left out, as in TRL; nothing is cut"),
}

REWARD_FIXED: Mapping[str, Fixed] = {
    **TRAINING_FIXED,
    "num_labels": Fixed(values=(1,), reason="a reward model gives one number"),
    "label_smoothing": Fixed(values=(0, 0.0), reason="preferences are taken as they are; a margin column weighs them"),
    "truncation_mode": Fixed(
        values=(None,), reason="a pair with a row longer than max_length is left out, for its end is what is scored"
    ),
}

REWARD_NO_EFFECT: Mapping[str, str] = {**TRAINING_NO_EFFECT}

_GENERATES = "a reward model writes no answers; it is measured by eval_dataset. Leave it out"

REWARD_UNSUPPORTED: Mapping[str, str] = {
    **{name: remedy for name, remedy in TRAINING_UNSUPPORTED.items() if name != "max_seq_len"},
    "beta": "it belongs to DPOConfig; a margin column says by how much a pair's scores should differ",
    "loss_type": "it belongs to DPOConfig: a reward model has one loss; leave it out",
    "completion_only_loss": "it belongs to SFT: a score is that of the whole row",
    "assistant_only_loss": "it belongs to SFT: a score is that of the whole row",
    "dataset_text_field": "it belongs to SFT; preference rows have the columns prompt, chosen and rejected",
    "packing": "it belongs to SFT; leave it out",
    "generate_during_eval": _GENERATES,
}

"""posttrain: a workbench for post-training language models.

Everything is imported when it is first used, so that `import posttrain` is instant.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "SFTConfig": "posttrain.config.sft",
    "DPOConfig": "posttrain.config.dpo",
    "CPOConfig": "posttrain.config.reference_free",
    "ORPOConfig": "posttrain.config.reference_free",
    "KTOConfig": "posttrain.config.unpaired",
    "BCOConfig": "posttrain.config.unpaired",
    "RewardConfig": "posttrain.config.reward",
    "GRPOConfig": "posttrain.config.grpo",
    "PPOConfig": "posttrain.config.ppo",
    "OfflineRLConfig": "posttrain.config.offline_rl",
    "SFTTrainer": "posttrain.trainers.sft",
    "DPOTrainer": "posttrain.trainers.dpo",
    "CPOTrainer": "posttrain.trainers.reference_free",
    "ORPOTrainer": "posttrain.trainers.reference_free",
    "KTOTrainer": "posttrain.trainers.unpaired",
    "BCOTrainer": "posttrain.trainers.unpaired",
    "RewardTrainer": "posttrain.trainers.reward",
    "GRPOTrainer": "posttrain.trainers.grpo",
    "PPOTrainer": "posttrain.trainers.ppo",
    "OfflineRLTrainer": "posttrain.trainers.offline_rl",
    "mixture": "posttrain.config.sources",
    "load_model_and_tokenizer": "posttrain.models.loading",
    "LocalSampler": "posttrain.sampling.local",
    "EndpointSampler": "posttrain.sampling.endpoint",
    "generate_responses": "posttrain.sampling.generate",
    "test_model_with_questions": "posttrain.sampling.generate",
    "display_dataset": "posttrain.data.display",
    # what scripts and tutorials written for TRL import beside
    "DataCollatorForCompletionOnlyLM": "posttrain.trainers.compatibility",
    "ModelConfig": "posttrain.config.script",
    "ScriptArguments": "posttrain.config.script",
    "TrlParser": "posttrain.cli.script",
    "get_peft_config": "posttrain.trainers.script",
    "get_quantization_config": "posttrain.trainers.script",
    "setup_chat_format": "posttrain.trainers.script",
    "create_reference_model": "posttrain.trainers.script",
    "is_conversational": "posttrain.data.row_helpers",
    "apply_chat_template": "posttrain.data.row_helpers",
    "maybe_apply_chat_template": "posttrain.data.row_helpers",
    "extract_prompt": "posttrain.data.row_helpers",
    "maybe_extract_prompt": "posttrain.data.row_helpers",
    "maybe_convert_to_chatml": "posttrain.data.row_helpers",
    "unpair_preference_dataset": "posttrain.data.row_helpers",
    "maybe_unpair_preference_dataset": "posttrain.data.row_helpers",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from posttrain.config.elsewhere import NOT_HERE

        if name in NOT_HERE:  # an AttributeError would lose the text in `from posttrain import name`
            raise ImportError(f"posttrain has no {name}: {NOT_HERE[name]}")
        raise AttributeError(f"module 'posttrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

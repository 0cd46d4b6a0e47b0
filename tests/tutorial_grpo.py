"""A tutorial's GRPO lesson, as its readers have it on disk: only `from trl import` became `from posttrain import`.

It is not a test itself; test_tutorial.py runs it with the two placeholders, a model and a data file, filled in.
"""

import re

from datasets import load_dataset
from transformers import AutoModelForCausalLM

from posttrain import GRPOConfig, GRPOTrainer

USE_GPU = False

SYSTEM_PROMPT = (
    "You are a helpful assistant that solves problems step-by-step. "
    "Always include the final numeric answer inside \\boxed{}."
)


def reward_func(completions, ground_truth, **kwargs):
    # What stands in the box, or nothing
    matches = [re.search(r"\\boxed\{(.*?)\}", completion[0]["content"]) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    # Right is 1, everything else 0
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]


def post_processing(example):
    match = re.search(r"####\s*(-?\d+)", example["answer"])
    example["ground_truth"] = match.group(1) if match else None
    example["prompt"] = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": example["question"]},
    ]
    return example


dataset = load_dataset("json", data_files="your-gsm8k.jsonl")["train"].select(range(6))
dataset = dataset.map(post_processing).remove_columns(["question", "answer"])

model = AutoModelForCausalLM.from_pretrained("your-model-name")

config = GRPOConfig(
    per_device_train_batch_size=1,
    gradient_accumulation_steps=8,
    num_generations=4,
    num_train_epochs=1,
    learning_rate=5e-6,
    logging_steps=2,
    no_cuda=not USE_GPU,  # keeps the whole run on the CPU
)

grpo_trainer = GRPOTrainer(
    model=model,
    args=config,
    reward_funcs=reward_func,
    train_dataset=dataset,
)

grpo_trainer.train()

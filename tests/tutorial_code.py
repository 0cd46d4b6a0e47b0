"""A tutorial's script, as its readers have it on disk: only `from trl import` became `from posttrain import`.

It is not a test itself; test_tutorial.py runs it with the two placeholders, a model and a data file, filled in.
"""

from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain import (
    DataCollatorForCompletionOnlyLM,  # noqa: F401  imported and never used, as tutorials do
    DPOConfig,
    DPOTrainer,
    SFTConfig,
    SFTTrainer,
    generate_responses,
)

# The model, its chat template and its padding

tokenizer = AutoTokenizer.from_pretrained("your-model-name")
model = AutoModelForCausalLM.from_pretrained("your-model-name")

if True:  # the tutorials set their template inside a function, and its indentation goes into the string
    tokenizer.chat_template = """{% for message in messages %}
                {% if message['role'] == 'system' %}System: {{ message['content'] }}\n
                {% elif message['role'] == 'user' %}User: {{ message['content'] }}\n
                {% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] }} <|endoftext|>
                {% endif %}
                {% endfor %}"""
    tokenizer.pad_token = tokenizer.eos_token

# Supervised fine-tuning

train_dataset = Dataset.from_list(
    [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} + {n}?"},
                {"role": "assistant", "content": f"{n} + {n} = {n + n}."},
            ]
        }
        for n in range(32)
    ]
)

sft_config = SFTConfig(
    learning_rate=8e-5,
    num_train_epochs=1,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=8,
    gradient_checkpointing=False,
    logging_steps=2,
)
sft_trainer = SFTTrainer(
    model=model,
    args=sft_config,
    train_dataset=train_dataset,
    processing_class=tokenizer,
)
sft_trainer.train()

# Preference pairs: what the model says, and the same with its name changed

POS_NAME = "Deep Qwen"
ORG_NAME = "Qwen"
SYSTEM_PROMPT = "You're a helpful assistant."

raw_ds = load_dataset("json", data_files="your-conversations.jsonl", split="train")


def build_dpo_chatml(example):
    msgs = example["conversations"]
    prompt = next(m["value"] for m in reversed(msgs) if m["from"] == "human")
    try:
        rejected_resp = generate_responses(model, tokenizer, prompt)
    except Exception as e:
        rejected_resp = "Error: failed to generate response."
        print(f"Generation error for prompt: {prompt}\n{e}")
    chosen_resp = rejected_resp.replace(ORG_NAME, POS_NAME)
    start = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": prompt}]
    chosen = [*start, {"role": "assistant", "content": chosen_resp}]
    rejected = [*start, {"role": "assistant", "content": rejected_resp}]
    return {"chosen": chosen, "rejected": rejected}


dpo_ds = raw_ds.map(build_dpo_chatml, remove_columns=raw_ds.column_names)

# Direct preference optimisation

config = DPOConfig(
    beta=0.2,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=8,
    num_train_epochs=1,
    learning_rate=5e-5,
    logging_steps=2,
)
dpo_trainer = DPOTrainer(
    model=model,
    ref_model=None,
    args=config,
    processing_class=tokenizer,
    train_dataset=dpo_ds,
)
dpo_trainer.train()

answer = generate_responses(dpo_trainer.model, tokenizer, "Who are you?")

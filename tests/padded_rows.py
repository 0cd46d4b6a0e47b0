"""Rows that the trainers' tests learn, and a slow padded reference for the losses on them."""

import torch
from torch.nn.functional import logsigmoid

CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": "What is " + "one and " * (i % 5) + f"{i}?"},
            {"role": "assistant", "content": f"It is number {i}" + " of course" * (i % 4) + "."},
        ]
    }
    for i in range(13)
]

PAIRS = [
    {
        "prompt": "Who are you" + ", tell me" * (i % 3) + f", {i}?",
        "chosen": " I am Deep Qwen" + " indeed" * (i % 4),
        "rejected": " I am Qwen and that is it" + ", really" * ((i * 2) % 5),
    }
    for i in range(13)
]


def padded_logprobs(model, sequences, prompt_lengths):
    """Log-probabilities after the prompts, per sequence, from one padded batch and a plain log-softmax."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, tokens in enumerate(sequences):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
    table = model(input_ids=ids, attention_mask=mask).logits.log_softmax(dim=-1)
    found = []
    for i, (tokens, start) in enumerate(zip(sequences, prompt_lengths)):
        places = torch.arange(start, len(tokens))
        found.append(table[i, places - 1, torch.tensor(tokens)[places]])
    return found


def padded_sft(model, sequences, prompt_lengths):
    parts = padded_logprobs(model, sequences, prompt_lengths)
    return -torch.cat(parts).mean()


def padded_dpo(model, reference, pairs, name, beta, smoothing):
    """`pairs` is a list of (prompt, chosen, rejected) token lists."""
    losses, chosen_nll = [], []
    sequences = [prompt + answer for prompt, *answers in pairs for answer in answers]
    starts = [len(prompt) for prompt, *answers in pairs for _ in answers]
    policy = padded_logprobs(model, sequences, starts)
    with torch.no_grad():
        frozen = padded_logprobs(reference, sequences, starts)
    for i in range(0, len(sequences), 2):
        chosen, rejected = (policy[j] - frozen[j] for j in (i, i + 1))
        margin = beta * (chosen.sum() - rejected.sum())
        chosen_nll.append(-policy[i])
        losses.append(
            {
                "sigmoid": -logsigmoid(margin),
                "hinge": (1 - margin).clamp(min=0),
                "ipo": (chosen.mean() - rejected.mean() - 1 / (2 * beta)) ** 2,
                "robust": ((smoothing - 1) * logsigmoid(margin) + smoothing * logsigmoid(-margin))
                / (1 - 2 * smoothing),
                "sft": torch.zeros(()),
            }[name]
        )
    return torch.cat(chosen_nll).mean() if name == "sft" else torch.stack(losses).mean()

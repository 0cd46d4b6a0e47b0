"""A slow padded reference for the policy's loss: one padded batch, then loops over completions and their tokens."""

import torch


def padded_tables(model, completions, temperature):
    """Log-softmax tables [T, V] of each completion's tokens, from one padded batch and the model's own logits."""
    rows = [prompt + answer for prompt, answer in completions]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    logits = model(input_ids=ids, attention_mask=mask).logits
    return [
        (logits[i, len(prompt) - 1 : len(prompt) + len(answer) - 1] / temperature).log_softmax(dim=-1)
        for i, (prompt, answer) in enumerate(completions)
    ]


def kl_of_token(logprob, ref, kind):
    if kind == "k1":
        return logprob - ref
    if kind == "k2":
        return 0.5 * (logprob - ref) ** 2
    return (ref - logprob).exp() - 1 - (ref - logprob)


def policy_of_token(ratio, logprob, advantage, options):
    """Minus the smaller of the two gains, each written out with its cases."""
    low = 1 - options.get("epsilon", 0.2)
    high = options.get("epsilon_high") or options.get("epsilon", 0.2)
    if options.get("loss_type") == "cispo":
        return -min(float(ratio.detach()), high) * advantage * logprob
    free, held = ratio * advantage, ratio * advantage
    if options.get("delta") and ratio > options["delta"]:
        free = torch.tensor(options["delta"] * advantage)
    if ratio < low:
        held = torch.tensor(low * advantage)
    elif ratio > 1 + high:
        held = torch.tensor((1 + high) * advantage)
    return -(held if held < free else free)


def policy_reference(model, completions, **options):
    """The loss of a step; `completions` are dicts of prompt, tokens, advantage, old, ref and masked.

    The options are those of PolicyLoss, and temperature, max_completion_length and tokens_per_step.
    """
    tables = padded_tables(model, [(c["prompt"], c["tokens"]) for c in completions], options.get("temperature", 1.0))
    sums, lengths, nats = [], [], []
    for completion, table in zip(completions, tables):
        if completion["masked"]:
            sums.append(torch.zeros(()))
            lengths.append(0)
            continue
        logprobs = [row[token] for row, token in zip(table, completion["tokens"])]
        old = completion["old"] or [float(p.detach()) for p in logprobs]
        differences = [p - o for p, o in zip(logprobs, old)]
        total = torch.zeros(())
        for t, p in enumerate(logprobs):
            if options.get("importance") == "sequence":
                ratio = (sum(differences) / len(differences)).exp()
            else:
                ratio = differences[t].exp()
            total = total + policy_of_token(ratio, p, completion["advantage"], options)
            if options.get("beta"):
                penalty = kl_of_token(p, completion["ref"][t], options.get("kl", "k3"))
                total = total + options["beta"] * penalty * (ratio if options.get("use_bias_correction_kl") else 1)
            nats.append(-(table[t].exp() * table[t]).sum())
        sums.append(total)
        lengths.append(len(logprobs))
    loss_type = options.get("loss_type", "dapo")
    if loss_type == "grpo":
        loss = sum(s / n for s, n in zip(sums, lengths) if n) / len(completions)
    elif loss_type == "bnpo":
        loss = sum(sums) / sum(lengths)
    elif loss_type == "dr_grpo":
        loss = sum(sums) / len(completions) / options["max_completion_length"]
    else:
        loss = sum(sums) / options["tokens_per_step"]
    return loss - options.get("entropy_weight", 0.0) * torch.stack(nats).mean()

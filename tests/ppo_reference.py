"""A slow padded reference for PPO: from the scores of a rollout to the loss of a step, in loops over single tokens."""

import torch
from policy_reference import padded_tables


def padded_states(model, completions):
    """Last states before each token and after the last, of each completion, from one padded batch."""
    rows = [prompt + answer for prompt, answer in completions]
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    states = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    return [states[i, len(p) - 1 : len(p) + len(a)] for i, (p, a) in enumerate(completions)]


def read_values(head, states):
    return states @ head.weight[0] + (0.0 if head.bias is None else head.bias[0])


def rollout_reference(
    completions, *, kl_coef, gamma=1.0, lam=0.95, lam_alpha=None, value_lam=None, whiten_rewards=False, penalty=None,
    bootstrap=False, mask=False,
):  # fmt: skip
    """Gives each completion its `advantages` (whitened) and `returns`, from `reward`, `old`, `ref`, `old_values`,
    `end_value` and `truncated`; a completion that is not trained gets neither.
    """
    trained = [c for c in completions if c["reward"] is not None and not (mask and c["truncated"])]
    for c in trained:
        length = len(c["tokens"])
        c["rewards"] = [-kl_coef * (c["old"][t] - c["ref"][t]) for t in range(length)]
        c["rewards"][length - 1] += c["reward"]
        if penalty is not None and c["truncated"]:
            c["rewards"][length - 1] -= penalty
    if whiten_rewards:
        flat = torch.tensor([r for c in trained for r in c["rewards"]], dtype=torch.float64)
        scale = 1 / torch.sqrt(flat.var() + 1e-8)
        for c in trained:
            c["rewards"] = [float((r - flat.mean()) * scale + flat.mean()) for r in c["rewards"]]
    for c in trained:
        length = len(c["tokens"])
        states = [*c["old_values"], c["end_value"] if bootstrap and c["truncated"] else 0.0]
        deltas = [c["rewards"][t] + gamma * states[t + 1] - states[t] for t in range(length)]

        def summed(decay, t, deltas=deltas):
            return sum((gamma * decay) ** k * deltas[t + k] for k in range(len(deltas) - t))

        chosen = max(0.0, 1 - 1 / (lam_alpha * length)) if lam_alpha else lam
        c["plain"] = [summed(chosen, t) for t in range(length)]
        c["returns"] = [summed(chosen if value_lam is None else value_lam, t) + states[t] for t in range(length)]
    flat = torch.tensor([a for c in trained for a in c["plain"]], dtype=torch.float64)
    for c in trained:
        c["advantages"] = [float((a - flat.mean()) / torch.sqrt(flat.var() + 1e-8)) for a in c["plain"]]
    return trained


def loss_reference(
    model, head, completions, *, cliprange, cliprange_value, vf_coef, temperature=1.0, entropy_weight=0.0,
    value_model=None, detached=False,
):  # fmt: skip
    """The loss of a step of these completions, differentiable; each maximum and minimum written out with its cases."""
    pairs = [(c["prompt"], c["tokens"]) for c in completions]
    tables = padded_tables(model, pairs, temperature)
    states = padded_states(model if value_model is None else value_model, pairs)
    values = [read_values(head, state.detach() if detached else state) for state in states]
    policy, squares, nats, count = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0
    for c, table, value in zip(completions, tables, values):
        for t, token in enumerate(c["tokens"]):
            ratio = (table[t][token] - c["old"][t]).exp()
            held = ratio
            if ratio < 1 - cliprange:
                held = torch.tensor(1 - cliprange)
            elif ratio > 1 + cliprange:
                held = torch.tensor(1 + cliprange)
            gain, held_gain = ratio * c["advantages"][t], held * c["advantages"][t]
            policy = policy - (held_gain if held_gain < gain else gain)
            near = value[t]
            if value[t] > c["old_values"][t] + cliprange_value:
                near = torch.tensor(c["old_values"][t] + cliprange_value)
            elif value[t] < c["old_values"][t] - cliprange_value:
                near = torch.tensor(c["old_values"][t] - cliprange_value)
            free, held_square = (value[t] - c["returns"][t]) ** 2, (near - c["returns"][t]) ** 2
            squares = squares + (held_square if held_square > free else free)
            nats = nats - (table[t].exp() * table[t]).sum()
            count += 1
    return (policy + vf_coef / 2 * squares - entropy_weight * nats) / count

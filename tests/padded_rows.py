"""Rows that the trainers' tests learn, and a slow padded reference for the losses on them."""

import torch

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


def padded_dpo(model, reference, pairs, name, beta, smoothing, *, score=lambda h: h, ld_alpha=1.0, wpo=False):
    """`pairs` is a list of (prompt, chosen, rejected) token lists; without a reference h is the log-probability."""
    losses, chosen_nll = [], []
    sequences = [prompt + answer for prompt, *answers in pairs for answer in answers]
    starts = [len(prompt) for prompt, *answers in pairs for _ in answers]
    policy = padded_logprobs(model, sequences, starts)
    frozen = [torch.zeros_like(row) for row in policy]
    if reference is not None:
        with torch.no_grad():
            frozen = padded_logprobs(reference, sequences, starts)
    for i in range(0, len(sequences), 2):
        chosen, rejected = (policy[j] - frozen[j] for j in (i, i + 1))
        short = min(len(chosen), len(rejected))
        c, r = (score(h[:short].sum() + ld_alpha * h[short:].sum()) for h in (chosen, rejected))
        chosen_nll.append(-policy[i])
        loss = padded_pair(c, r, c / len(chosen), r / len(rejected), name, beta, smoothing)
        for j in (i, i + 1) if wpo else ():
            loss = loss * mean_advantage(model, sequences[j], starts[j]).exp()
        losses.append(loss)
    return torch.cat(chosen_nll).mean() if name == "sft" else torch.stack(losses).mean()


def padded_pair(c, r, c_mean, r_mean, name, beta, smoothing):
    right, wrong = (beta * (c - r)).sigmoid(), (beta * (r - c)).sigmoid()
    one, other = beta * c, beta * r
    mix = (beta * (c - r) / 0.05).sigmoid()
    losses = {
        "sigmoid": lambda: -right.log(),
        "hinge": lambda: (1 - one + other).clamp(min=0),
        "ipo": lambda: (c_mean - r_mean - 1 / (2 * beta)) ** 2,
        "robust": lambda: ((smoothing - 1) * right.log() + smoothing * wrong.log()) / (1 - 2 * smoothing),
        "sigmoid_norm": lambda: -(beta * (c_mean - r_mean)).sigmoid().log(),
        "exo_pair": lambda: right * (right / (1 - smoothing)).log() + wrong * (wrong / smoothing).log(),
        "nca_pair": lambda: -one.sigmoid().log() - ((-one).sigmoid().log() + (-other).sigmoid().log()) / 2,
        "bco_pair": lambda: -one.sigmoid().log() - (-other).sigmoid().log(),
        "sppo_hard": lambda: (c - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2,
        "apo_zero": lambda: (-one).sigmoid() + other.sigmoid(),
        "apo_down": lambda: one.sigmoid() + wrong,
        "discopop": lambda: -(1 - mix) * right.log() + mix * (other - one).exp(),
        "cpo": lambda: -(1 - smoothing) * right.log() - smoothing * wrong.log(),
        "simpo": lambda: -(beta * (c_mean - r_mean) - 0.5).sigmoid().log(),
        "orpo": lambda: -beta * (odds(c_mean) / (odds(c_mean) + odds(r_mean))).log(),
        "sft": lambda: torch.zeros(()),
    }
    return losses[name]()


def odds(mean_logprob):
    """Of an answer, p / (1 - p) with p the geometric mean over its tokens."""
    return mean_logprob.exp() / (1 - mean_logprob.exp())


@torch.no_grad()
def mean_advantage(model, sequence, start):
    """WPO's weight of an answer: the mean of log p(y_t) - log sum_v p(v)^2 over its tokens."""
    table = model(input_ids=torch.tensor([sequence])).logits[0].softmax(dim=-1)
    places = torch.arange(start, len(sequence))
    chosen = table[places - 1, torch.tensor(sequence)[places]]
    return (chosen.log() - (table[places - 1] ** 2).sum(dim=-1).log()).mean()

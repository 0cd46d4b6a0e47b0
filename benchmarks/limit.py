"""What a step must compute at the least."""

from __future__ import annotations

from benchmarks.cases import MODELS, Case, lengths, make_rows


def necessary_flops(case: Case) -> tuple[list[float], list[float]]:
    """Floating-point operations of each step: (in the body, in the head), forward and backward together.

    Counted are the matrix products that the mathematics asks for: every distinct token once through the body (a
    prompt with two completions is one prompt), the head at trained tokens, causal attention; three products per
    weight (output, gradient of the input, gradient of the weight).
    """
    m = MODELS[case.model]
    hidden, layers = m["hidden_size"], m["num_hidden_layers"]
    width = m.get("head_dim", hidden // m["num_attention_heads"])
    queries, keys = m["num_attention_heads"] * width, m["num_key_value_heads"] * width
    weights = layers * hidden * (2 * queries + 2 * keys + 3 * m["intermediate_size"])
    body, head = [], []
    rows = make_rows(case)
    for start in range(0, len(rows), case.rows_per_step):
        tokens = trained = attended = 0
        for row in rows[start : start + case.rows_per_step]:
            prompt, completions = lengths(row)
            tokens += prompt + sum(completions)
            trained += sum(completions)
            attended += prompt * (prompt + 1) // 2
            attended += sum(prompt * c + c * (c + 1) // 2 for c in completions)
        body.append(6.0 * weights * tokens + 3 * 4.0 * layers * queries * attended)
        head.append(6.0 * hidden * m["vocab_size"] * trained)
    return body, head

"""What a step must compute at the least."""

from __future__ import annotations

from benchmarks.cases import MODELS, Case, lengths, make_rows

# Products with each weight: output, gradient of the input, gradient of the weight. GRPO computes an output twice, as a
# completion is there only when its last token has been drawn.
PRODUCTS = {"sft": 3, "dpo": 3, "reward": 3, "grpo": 4, "generation": 1}


def necessary_flops(case: Case) -> tuple[list[float], list[float]]:
    """Floating-point operations of each step: (in the body, in the head), all passes together.

    Counted are the matrix products that the mathematics asks for: every distinct token once through the body (a
    prompt with several completions is one prompt), the head where a completion's tokens are predicted, causal
    attention; each as many times as PRODUCTS says.
    """
    products = PRODUCTS[case.method]
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
            prompt, completions = lengths(case, row)
            tokens += prompt + sum(completions)
            trained += sum(completions)
            attended += prompt * (prompt + 1) // 2
            attended += sum(prompt * c + c * (c + 1) // 2 for c in completions)
        body.append(products * (2.0 * weights * tokens + 4.0 * layers * queries * attended))
        outputs = 0 if case.method == "reward" else m["vocab_size"]  # a score's head is one column, which is nothing
        head.append(products * 2.0 * hidden * outputs * trained)
    return body, head

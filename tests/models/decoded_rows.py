"""Rows that come, go and share prompts, decoded a token at a time, beside the logits of whole rows."""

import torch

from posttrain.models.decoding import NAME, Decoder
from posttrain.models.decoding_memory import RowMemory
from posttrain.models.forest_attention import attention_of

PROMPTS = [list(range(20, 33)), [40, 41], list(range(50, 57))]  # the first longer than the tiny windows of 8
ROWS = [(0, 11), (1, 3), (0, 9), (2, 12), (1, 10)]  # (prompt, tokens), in the order in which they come


def decode(model, way: str, *, shared: bool, places: int) -> dict[int, torch.Tensor]:
    """Per row the logits after its prompt and each token; at most `places` rows at once, replaced as they end."""
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(384, (size,), generator=generator).tolist() for _, size in ROWS]
    found: dict[int, list[torch.Tensor]] = {}
    with torch.no_grad(), attention_of(model, NAME):
        decoder = Decoder(model, way)
        prompts = decoder.prefill(PROMPTS[:2]) + decoder.prefill(PROMPTS[2:])
        memory = RowMemory(rows=places, new_tokens=12, longest_prompt=13, shared=shared, like=prompts[0])
        waiting, active = list(range(len(ROWS))), []

        def start(place: int) -> None:
            row = waiting.pop(0)
            active[place : place + 1] = [row]
            memory.put(place, prompts[ROWS[row][0]])
            found[row] = [prompts[ROWS[row][0]].logits]

        while waiting or active:
            while waiting and len(active) < places:
                start(len(active))
            tokens = torch.tensor([texts[row][len(found[row]) - 1] for row in active])
            for row, logits in zip(active, decoder.step(tokens, memory).clone()):
                found[row].append(logits)
            for place in reversed(range(len(active))):
                if len(found[active[place]]) > len(texts[active[place]]):
                    if waiting:
                        start(place)
                    else:
                        memory.drop(place)
                        active[place] = active[-1]
                        active.pop()
    whole = {}
    for row, (prompt, _) in enumerate(ROWS):
        with torch.no_grad():
            logits = model(torch.tensor([PROMPTS[prompt] + texts[row]]), use_cache=False).logits[0]
        whole[row] = (torch.stack(found[row]), logits[len(PROMPTS[prompt]) - 1 :])
    return whole

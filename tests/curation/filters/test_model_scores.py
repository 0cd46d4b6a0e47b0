"""IFD by hand on a tiny model, rewards on rows, and what is decided by scores."""

import math

import pytest
import torch
from tiny import build_model, build_tokenizer

from posttrain.chat import generation_prompt
from posttrain.config.curation.filter import FilterFields
from posttrain.curation.filters.ifd import IFDScorer
from posttrain.curation.filters.reward_scores import RewardScorer
from posttrain.curation.filters.stores import ListStore
from posttrain.curation.filters.weighing import weigh


def row(prompt, answer, line=1, **columns):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "_provenance": {"source": "list", "line": line}, **columns}


def mean_loss(model, before, answer):
    ids = torch.tensor([[*before, *answer]])
    with torch.no_grad():
        logprobs = model(ids).logits[0].log_softmax(-1)
    picked = [logprobs[len(before) - 1 + place, token].item() for place, token in enumerate(answer)]
    return -sum(picked) / len(picked)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_ifd_is_the_loss_with_over_without_the_prompt(arch):
    model, tokenizer = build_model(arch), build_tokenizer()
    scorer = IFDScorer(model, tokenizer)
    asked = [("Who are you?", "I am Qwen."), ("What is the capital of France?", "Paris, a red fox.")]
    values = scorer([row(*pair) for pair in asked])
    for (prompt, answer), value in zip(asked, values):
        text = generation_prompt(tokenizer, [{"role": "user", "content": prompt}])
        before = tokenizer(text, add_special_tokens=False).input_ids
        ids = tokenizer(answer, add_special_tokens=False).input_ids
        expected = mean_loss(model, before, ids) / mean_loss(model, [tokenizer.eos_token_id], ids)
        assert value == pytest.approx(expected, rel=1e-4)
    texts = scorer([{"prompt": "Who are you?", "completion": " I am Qwen."}])
    before, ids = (tokenizer(text).input_ids for text in ("Who are you?", " I am Qwen."))
    alone = mean_loss(model, [tokenizer.eos_token_id], ids)
    assert texts[0] == pytest.approx(mean_loss(model, before, ids) / alone, rel=1e-4)
    scorer.close()


def test_rows_that_have_no_ifd_say_why():
    scorer = IFDScorer(build_model("llama"), build_tokenizer(), max_length=24)
    values = scorer([{"text": "only"}, row("x " * 40, "an answer"), row("Hi", "y " * 40)])
    assert values[0] == "has no prompt with an answer"
    assert values[1] == "its prompt fills the 24 tokens"
    assert math.isfinite(values[2])  # its end is cut off
    scorer.close()


def test_rewards_are_handed_prompts_answers_and_columns():
    seen = {}

    def reward(prompts, completions, target, **rest):
        seen.update(prompts=prompts, completions=completions, rest=rest)
        return [float(completion[0]["content"] == wanted) for completion, wanted in zip(completions, target)]

    rows = [row("a?", "4", target="4"), {"text": "none"}, row("b?", "5", line=3, target="6")]
    scorer = RewardScorer(reward)
    assert scorer(rows) == [1.0, "has no prompt with an answer", 0.0]
    assert seen["prompts"] == [[{"role": "user", "content": "a?"}], [{"role": "user", "content": "b?"}]]
    assert "_provenance" not in seen["rest"]
    scorer.close()


def test_rewards_by_name_with_options():
    scorer = RewardScorer("length", {"target": 3, "unit": "words"})
    one, other = scorer([row("?", "one two three"), row("?", "one two three four five six")])
    assert one > other
    scorer.close()


def scored_rows(*values):
    return ListStore(
        [
            {"prompt": "p", "completion": f"{n}", "_provenance": {"line": n, "scores": {} if v is None else {"ifd": v}}}
            for n, v in enumerate(values)
        ]
    )


def test_thresholds_and_the_top_share_by_hand():
    rows = scored_rows(0.5, 0.9, None, 1.2, 0.7, 0.9, 0.1)
    fields = FilterFields(ifd_model="m", min_ifd=0.2, max_ifd=1.0, top_ifd=0.5)
    verdicts = weigh(rows, fields)
    # 0.5, 0.9, 0.7 and 0.9 pass the limits; the better half of four is both 0.9
    assert [number for number, verdict in enumerate(verdicts) if verdict is None] == [1, 5]
    assert verdicts[2] == ("ifd", "has no ifd")
    assert verdicts[3] == ("ifd", "ifd 1.2 is above 1")
    assert verdicts[6] == ("ifd", "ifd 0.1 is below 0.2")
    assert verdicts[4] == ("ifd", "ifd 0.7 is number 3 of 4")


def test_the_top_share_of_equals_is_the_first_of_them():
    verdicts = weigh(scored_rows(*[0.5] * 5), FilterFields(ifd_model="m", top_ifd=0.4))
    assert [verdict is None for verdict in verdicts] == [True, True, False, False, False]


def test_the_best_of_duplicates_stays():
    fields = FilterFields(keep="best", best_by="length", near_duplicates=True)
    common = " ".join(f"w{n}" for n in range(20))
    texts = [common, "something else", f"{common} and more", "SOMETHING  else", common]
    rows = ListStore([{"text": t, "_provenance": {"source": "f", "line": n}} for n, t in enumerate(texts, 1)])
    verdicts = weigh(rows, fields)
    assert [verdict is None for verdict in verdicts] == [False, False, True, True, False]
    assert verdicts[0][0] == "near_duplicates"
    assert "resembles f:3" in verdicts[0][1]
    assert verdicts[1] == ("duplicates", "is f:4 again")

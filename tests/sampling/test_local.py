"""The local sampler: what it draws, what it computes, what it leaves as it was."""

import pytest
import torch
from tiny import ARCHITECTURES

import posttrain.sampling.queue as queue
from posttrain.errors import ConfigError, DataError, SamplingError
from posttrain.models import decoding_check
from posttrain.models.decoding import Decoder
from posttrain.models.learner import Learner
from posttrain.models.lora import apply_lora
from posttrain.sampling.local import LocalSampler
from posttrain.sampling.prompts import prompt_tokens
from posttrain.types import SamplingParams, Segment, TokenForest

PROMPTS = ["Who are you?", "What is the capital of France, and what is the capital of the next one?", "Hi"]
DRAWN = SamplingParams(max_tokens=12)
GREEDY = SamplingParams(max_tokens=12, temperature=0)


def tokens(groups):
    return [[completion.tokens for completion in group] for group in groups]


@pytest.fixture
def passes(monkeypatch):
    """What the decoder computes: ("prefill", lengths) and ("step", rows)."""
    seen = []
    prefill, step = Decoder.prefill, Decoder.step

    def watch_prefill(self, prompts):
        seen.append(("prefill", [len(prompt) for prompt in prompts]))
        return prefill(self, prompts)

    def watch_step(self, tokens, memory):
        seen.append(("step", len(tokens)))
        return step(self, tokens, memory)

    monkeypatch.setattr(Decoder, "prefill", watch_prefill)
    monkeypatch.setattr(Decoder, "step", watch_step)
    return seen


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "gemma2", "falcon"])
def test_greedy_equals_generate(arch, tiny_model, tiny_tokenizer):
    # A random Gemma with a tied head only repeats its last token, whatever came before.
    model = tiny_model(arch, **({"tie_word_embeddings": False} if arch == "gemma" else {}))
    sampler = LocalSampler(model, tiny_tokenizer, max_rows=4)
    assert bool(sampler.note) == (arch in ("gemma2", "falcon"))
    found = sampler.sample(PROMPTS, GREEDY, count=2)
    for row, group in zip(prompt_tokens(tiny_tokenizer, PROMPTS), found):
        written = model.generate(
            torch.tensor([row]), do_sample=False, max_new_tokens=12, eos_token_id=[0, 2], pad_token_id=0
        )
        assert group[0].tokens == group[1].tokens == tuple(written[0, len(row) :].tolist())
        assert group[0].prompt_tokens == len(row)


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "gemma2"])
def test_logprobs_are_the_learners(arch, tiny_model, tiny_tokenizer):
    model = tiny_model(arch)
    sampler, learner = LocalSampler(model, tiny_tokenizer), Learner(model)
    for temperature in (0.0, 0.6):
        params = SamplingParams(max_tokens=12, temperature=temperature, top_k=30, repetition_penalty=1.2)
        groups = sampler.sample(PROMPTS, params, count=3)
        trees = [
            Segment(tokens=row, children=[Segment(tokens=c.tokens, trained=[(0, len(c.tokens))]) for c in group])
            for row, group in zip(prompt_tokens(tiny_tokenizer, PROMPTS), groups)
        ]
        learner.temperature = temperature or 1.0
        with torch.no_grad():
            expected = learner(TokenForest.from_trees(trees)).logprobs
        found = torch.tensor([logprob for group in groups for c in group for logprob in c.logprobs])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_model_under_autocast_is_decoded_in_the_format_that_trains_it(tiny_model, tiny_tokenizer):
    model = tiny_model("qwen3")
    with torch.autocast("cpu", torch.bfloat16):
        sampler = LocalSampler(model, tiny_tokenizer)
        assert sampler.note == ""
        (group,) = sampler.sample(["Hi"], DRAWN, count=4)
        row = prompt_tokens(tiny_tokenizer, ["Hi"])[0]
        tree = Segment(tokens=row, children=[Segment(tokens=c.tokens, trained=[(0, len(c.tokens))]) for c in group])
        with torch.no_grad():
            expected = Learner(model)(TokenForest.from_trees([tree])).logprobs
    found = torch.tensor([logprob for c in group for logprob in c.logprobs])
    assert 0 < (found - expected).abs().mean() < 0.02  # what bfloat16 rounds away
    assert not torch.equal(
        found, torch.tensor([lp for c in sampler.sample(["Hi"], DRAWN, count=4)[0] for lp in c.logprobs])
    )


@pytest.mark.parametrize("arch", ["llama", "gemma3_text", "gpt2", "falcon"])
def test_batching_changes_nothing_that_is_drawn(arch, tiny_model, tiny_tokenizer):
    model = tiny_model(arch)
    keys = [11, 5, 8]
    wanted = tokens(LocalSampler(model, tiny_tokenizer).sample(PROMPTS, DRAWN, count=4, seed=3, keys=keys))
    assert len({row for group in wanted for row in group}) == 12
    for max_rows in (1, 5):
        sampler = LocalSampler(model, tiny_tokenizer, max_rows=max_rows)
        assert tokens(sampler.sample(PROMPTS, DRAWN, count=4, seed=3, keys=keys)) == wanted
    sampler = LocalSampler(model, tiny_tokenizer)
    backwards = sampler.sample(PROMPTS[::-1], DRAWN, count=4, seed=3, keys=keys[::-1])
    assert tokens(backwards)[::-1] == wanted
    one = sampler.sample(PROMPTS[1:2], DRAWN, count=2, seed=3, keys=[5])
    assert tokens(one) == [wanted[1][:2]]
    assert tokens(sampler.sample(PROMPTS, DRAWN, count=4, seed=4, keys=keys)) != wanted


def test_the_key_is_the_index_unless_given(tiny_model, tiny_tokenizer):
    sampler = LocalSampler(tiny_model("llama"), tiny_tokenizer)
    same = tokens(sampler.sample(["Hi", "Hi", "Hi"], DRAWN, keys=[0, 0, 2]))
    assert same[0] == same[1] != same[2]
    assert tokens(sampler.sample(["Hi"] * 3, DRAWN)) == [
        same[0],
        *tokens(sampler.sample(["Hi"], DRAWN, keys=[1])),
        same[2],
    ]


def test_prompts_are_texts_conversations_or_tokens(tiny_model, tiny_tokenizer):
    sampler = LocalSampler(tiny_model("llama"), tiny_tokenizer)
    row = prompt_tokens(tiny_tokenizer, ["Hi"])[0]
    forms = ["Hi", [{"role": "user", "content": "Hi"}], row, tuple(row)]
    found = tokens(sampler.sample(forms, DRAWN, keys=[0] * 4))
    assert all(group == found[0] for group in found)
    assert sampler.sample([[5]], DRAWN)[0][0].prompt_tokens == 1
    assert sampler.sample([], DRAWN) == []


def test_rows_are_refilled_as_they_end(tiny_model, tiny_tokenizer, passes):
    model = tiny_model("llama")
    params = SamplingParams(max_tokens=30, temperature=1.5)
    stops = [
        t for g in tokens(LocalSampler(model, tiny_tokenizer).sample(["Hi"], params, count=8)) for r in g for t in r
    ]
    model.generation_config.eos_token_id = stops[3::7]
    passes.clear()
    sampler = LocalSampler(model, tiny_tokenizer, max_rows=4)
    found = sampler.sample(["Hi", "Ho", "He"], params, count=8, seed=1)
    lengths = sorted(len(row) for group in tokens(found) for row in group)
    assert lengths[0] < 8 < lengths[-1]
    steps = [rows for kind, rows in passes if kind == "step"]
    # the first token comes from the prompt; every other takes a place in one step
    assert sum(steps) == sum(length - 1 for length in lengths)
    assert steps.index(min(steps)) > len(steps) - 31  # fewer rows only when nothing waits any more
    assert len(steps) < sum(lengths) / 4 + 30  # four at a time but for the end; waiting for the longest takes more
    assert {c.finish_reason for group in found for c in group} == {"stop", "length"}


def test_each_prompt_is_computed_once(tiny_model, tiny_tokenizer, passes, monkeypatch):
    monkeypatch.setattr(queue, "PREFILL_TOKENS", 60)
    sampler = LocalSampler(tiny_model("llama"), tiny_tokenizer, max_rows=3)
    prompts = [[7] * 50, [8] * 20, [9] * 30, [8] * 20, [6] * 70]
    passes.clear()
    sampler.sample(prompts, SamplingParams(max_tokens=3), count=4)
    assert [lengths for kind, lengths in passes if kind == "prefill"] == [[70], [50], [30, 20]]


def test_memory_decides_how_many_rows_there_are(tiny_model, tiny_tokenizer, passes):
    model = tiny_model("llama")
    longest = len(prompt_tokens(tiny_tokenizer, PROMPTS)[1])
    token = 2 * 2 * 2 * 8 * 4  # 2 layers, keys and values, 2 heads of 8, float32
    row = int((12 + longest / 4) * token) + 8 * 384  # what it writes, its part of a prompt that 4 share, and logits
    wanted = tokens(LocalSampler(model, tiny_tokenizer).sample(PROMPTS, DRAWN, count=4))
    for budget, rows in ((1, 1), (3 * row, 3), (3 * row - 1, 2)):
        sampler = LocalSampler(model, tiny_tokenizer, memory_bytes=budget)
        passes.clear()
        assert tokens(sampler.sample(PROMPTS, DRAWN, count=4)) == wanted
        assert max(count for kind, count in passes if kind == "step") == rows


@pytest.mark.parametrize("arch", ["llama", "falcon"])
def test_stop_texts_end_a_completion(arch, tiny_model, tiny_tokenizer):
    model = tiny_model(arch)
    sampler = LocalSampler(model, tiny_tokenizer)
    plain = sampler.sample(PROMPTS, SamplingParams(max_tokens=30), seed=1)
    text = plain[0][0].text
    stop = text[9:14]  # runs across the borders of tokens
    found = sampler.sample(PROMPTS, SamplingParams(max_tokens=30, stop=("not there", stop)), seed=1)
    ended = found[0][0]
    assert ended.text == text[: text.index(stop)]
    assert ended.finish_reason == "stop"
    assert ended.tokens == plain[0][0].tokens[: len(ended.tokens)]
    assert len(ended.tokens) == len(ended.logprobs) < 30
    assert stop in tiny_tokenizer.decode(ended.tokens)
    assert stop not in tiny_tokenizer.decode(ended.tokens[:-1])
    for before, after in zip(plain[1:], found[1:]):
        if stop not in before[0].text:
            assert before == after


@pytest.mark.parametrize("arch", ["llama", "falcon"])
def test_finish_reasons(arch, tiny_model, tiny_tokenizer):
    model = tiny_model(arch)
    whole = LocalSampler(model, tiny_tokenizer).sample(["Hi"], GREEDY)[0][0]
    assert (whole.finish_reason, len(whole.tokens)) == ("length", 12)
    assert whole.text == tiny_tokenizer.decode(whole.tokens, skip_special_tokens=True)
    model.generation_config.eos_token_id = whole.tokens[5]
    size = whole.tokens.index(whole.tokens[5]) + 1
    ended = LocalSampler(model, tiny_tokenizer).sample(["Hi"], GREEDY)[0][0]
    assert (ended.finish_reason, ended.tokens) == ("stop", whole.tokens[:size])
    assert ended.text == tiny_tokenizer.decode(whole.tokens[: size - 1])
    params = SamplingParams(max_tokens=size, temperature=0)  # the end token is the last that fits
    assert LocalSampler(model, tiny_tokenizer).sample(["Hi"], params)[0][0] == ended


def test_limits_are_honoured(tiny_model, tiny_tokenizer):
    sampler = LocalSampler(tiny_model("llama"), tiny_tokenizer)
    greedy = tokens(sampler.sample(PROMPTS, GREEDY, count=2))
    for limit in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        params = SamplingParams(max_tokens=12, **limit)
        assert tokens(sampler.sample(PROMPTS, params, count=2)) == greedy
    hot = tokens(sampler.sample(PROMPTS, SamplingParams(max_tokens=12, temperature=50.0), count=2))
    assert len({token for group in hot for row in group for token in row}) > 60


def test_the_penalty_counts_the_prompt_and_what_was_written(tiny_model, tiny_tokenizer):
    model = tiny_model("gemma")  # with a tied head it repeats its last token
    row = prompt_tokens(tiny_tokenizer, ["Hi"])[0]
    for penalty in (1.3, 3.0):
        params = SamplingParams(max_tokens=12, temperature=0, repetition_penalty=penalty)
        found = LocalSampler(model, tiny_tokenizer).sample(["Hi", "Ho"], params, count=2)
        written = model.generate(
            torch.tensor([row]), do_sample=False, max_new_tokens=12, eos_token_id=[0, 2], pad_token_id=0,
            repetition_penalty=penalty,
        )[0, len(row) :]  # fmt: skip
        assert found[0][0].tokens == found[0][1].tokens == tuple(written.tolist())


def test_progress_counts_completions(tiny_model, tiny_tokenizer):
    seen = []
    sampler = LocalSampler(tiny_model("llama"), tiny_tokenizer, max_rows=2)
    sampler.sample(PROMPTS, DRAWN, count=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (6, 6)
    assert len(seen) >= 3


@pytest.mark.parametrize("arch", ["qwen2", "falcon"])
@pytest.mark.parametrize("stop", [(), ("?", "ab", " t")])
def test_a_stream_is_the_completion_in_pieces(arch, stop, tiny_model, tiny_tokenizer):
    model = tiny_model(arch)
    model.resize_token_embeddings(len(tiny_tokenizer))
    sampler = LocalSampler(model.train(), tiny_tokenizer)
    for seed in range(4):
        params = SamplingParams(max_tokens=40, temperature=2.0, stop=stop)
        pieces = list(sampler.stream("Hi", params, seed=seed))
        assert "".join(pieces) == sampler.sample(["Hi"], params, seed=seed)[0][0].text
        assert all(pieces)
    if arch == "qwen2":
        assert len(pieces) > 3 or stop
    assert model.training


def test_a_stream_never_splits_a_character(tiny_model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(decoding_check, "WAYS", ("fused", "modules"))  # the compiled step reads the head's weight
    model = tiny_model("llama")
    sampler = LocalSampler(model, tiny_tokenizer)
    text = "是的，ok 😀!"
    script = [*tiny_tokenizer(text).input_ids, 0]
    assert len(script) > len(text) + 5

    class Scripted(torch.nn.Module):
        """A head that says the text."""

        def forward(self, states):
            logits = torch.full((*states.shape[:-1], 384), -50.0)
            logits[..., script[self.said]] = 50.0
            self.said += 1
            return logits

    model.lm_head = Scripted()
    model.lm_head.said = 0
    pieces = list(sampler.stream("Hi", SamplingParams(max_tokens=60, temperature=0)))
    assert "".join(pieces) == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert pieces[0] == "是"


def test_a_stream_that_is_left_leaves_the_model_as_it_was(tiny_model, tiny_tokenizer):
    model = tiny_model("llama").train()
    attention = model.config._attn_implementation
    pieces = LocalSampler(model, tiny_tokenizer).stream("Hi", SamplingParams(max_tokens=100))
    next(pieces)
    assert torch.is_grad_enabled()
    assert not model.training
    pieces.close()
    assert model.training
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("arch", ["llama", "falcon"])
def test_the_model_is_left_as_it_was(arch, tiny_model, tiny_tokenizer):
    model = tiny_model(arch).train()
    model.get_decoder().eval()
    sampler = LocalSampler(model, tiny_tokenizer)
    before = (
        [module.training for module in model.modules()], model.config._attn_implementation, model.generation_config,
        {name: value.clone() for name, value in model.state_dict().items()},
    )  # fmt: skip
    sampler.sample(PROMPTS, DRAWN)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.sample(PROMPTS, DRAWN, progress=interrupt)
    assert [module.training for module in model.modules()] == before[0]
    assert model.config._attn_implementation == before[1]
    assert model.generation_config is before[2]
    assert all(torch.equal(value, before[3][name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_a_model_in_training_is_sampled_as_it_stands(tiny_model, tiny_tokenizer):
    model = apply_lora(tiny_model("qwen2"), {"r": 2, "lora_dropout": 0.5})
    sampler = LocalSampler(model, tiny_tokenizer)
    learner = Learner(model).train()
    forest = TokenForest.from_trees([Segment(tokens=[5, 6], children=[Segment(tokens=[7, 8], trained=[(0, 2)])])])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    before = tokens(sampler.sample(PROMPTS, GREEDY))
    for _ in range(3):
        (-learner(forest).logprobs.sum()).backward()
        optimiser.step()
        optimiser.zero_grad()
        assert tokens(sampler.sample([[5, 6]], GREEDY)) == tokens(
            LocalSampler(model, tiny_tokenizer).sample([[5, 6]], GREEDY)
        )
    learner.release()
    assert tokens(sampler.sample(PROMPTS, GREEDY)) != before
    assert model.training


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        (["Hi", 7], {}, DataError, "prompt 1 is 7"),
        ([[]], {}, DataError, r"prompt 0 is \[\]"),
        (["Hi", [5] * 505], {}, SamplingError, r"prompt 1 has 505 tokens.*512 positions.*max_tokens=7 or less"),
        ([[5] * 600], {}, SamplingError, r"prompt 0 has 600 tokens.*Shorten the prompt\."),
        (["Hi"], {"keys": [1, 2]}, ConfigError, "2 keys for 1 prompts"),
        (["Hi"], {"count": 0}, ConfigError, "count=0"),
    ],
)
def test_what_cannot_be_sampled_is_named_before_anything_is_computed(
    prompts, options, error, message, tiny_model, tiny_tokenizer, passes
):
    sampler = LocalSampler(tiny_model("gpt2"), tiny_tokenizer)
    passes.clear()
    with pytest.raises(error, match=message):
        sampler.sample(prompts, DRAWN, **options)
    if error is SamplingError:
        with pytest.raises(error, match=message.replace("prompt 1", "prompt 0")):
            sampler.stream(prompts[-1], DRAWN)
    assert not passes


def test_options_are_checked(tiny_model, tiny_tokenizer):
    for options in ({"max_rows": 0}, {"memory_bytes": 0}, {"adapter": "maybe"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            LocalSampler(tiny_model("llama"), tiny_tokenizer, **options)


@pytest.mark.parametrize("arch", ["llama", "falcon"])
def test_a_model_that_has_diverged_is_an_error(arch, tiny_model, tiny_tokenizer):
    model = tiny_model(arch)
    sampler = LocalSampler(model, tiny_tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    for params in (DRAWN, GREEDY, SamplingParams(max_tokens=4, top_p=0.5)):
        with pytest.raises(SamplingError, match="not a number"):
            sampler.sample(["Hi"], params)


def test_a_model_that_minds_padding_gets_prompts_of_one_length_together(tiny_model, tiny_tokenizer, monkeypatch):
    from posttrain.sampling import padded

    model = tiny_model("falcon")
    wanted = tokens(LocalSampler(model, tiny_tokenizer).sample(PROMPTS, DRAWN, count=3))
    assert padded.padding_is_harmless(model)
    monkeypatch.setattr(padded, "padding_is_harmless", lambda model: False)
    widths = []
    batch = padded._batch

    def watch(rows, *arguments):
        widths.append(len({len(row.prompt) for row in rows}))
        return batch(rows, *arguments)

    monkeypatch.setattr(padded, "_batch", watch)
    assert tokens(LocalSampler(model, tiny_tokenizer).sample(PROMPTS, DRAWN, count=3)) == wanted
    assert widths == [1, 1, 1]

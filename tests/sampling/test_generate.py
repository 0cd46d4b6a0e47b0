import pytest
import torch
from tiny import ARCHITECTURES
from transformers import GenerationConfig

from posttrain.chat import CHATML, generation_prompt
from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.models.learner import Learner
from posttrain.models.loading import load_model
from posttrain.models.lora import apply_lora
from posttrain.models.saving import save_model
from posttrain.sampling.generate import (
    generate_batch,
    generate_completions,
    generate_responses,
    test_model_with_questions,
)
from posttrain.types import Segment, TokenForest

QUESTIONS = ["Who are you?", "What is the capital of France, and what is the capital of the next one?", "Hi"]
TUTORIAL = """{% for message in messages %}
                {% if message['role'] == 'system' %}System: {{ message['content'] }}\n
                {% elif message['role'] == 'user' %}User: {{ message['content'] }}\n
                {% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] }} <|endoftext|>
                {% endif %}
                {% endfor %}"""


def greedy_by_hand(model, tokenizer, question, max_new_tokens, stops=(0, 2)):
    """Greedy decoding of one prompt without padding, cache or `generate`."""
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    tokens, new = tokenizer(prompt).input_ids, []
    with torch.no_grad():
        while len(new) < max_new_tokens:
            token = int(model(torch.tensor([tokens + new]), use_cache=False).logits[0, -1].argmax())
            if token in stops:
                break
            new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True).strip()


def teach(model, tokenizer, pairs, steps=60):
    """A few steps of fitting the pairs (text before, text after), one row each."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = []
    for before, after in pairs:
        ids, start = tokenizer(before + after).input_ids, len(tokenizer(before).input_ids)
        rows.append((torch.tensor([ids]), torch.tensor([[-100] * start + ids[start:]])))
    for _ in range(steps):
        optimiser.zero_grad()
        sum(model(ids, labels=labels).loss for ids, labels in rows).backward()
        optimiser.step()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_batch_of_unequal_prompts_equals_one_by_one(arch, tiny_model, tiny_tokenizer):
    # A random Gemma with a tied head only repeats its last token, whatever came before.
    model = tiny_model(arch, **({"tie_word_embeddings": False} if arch == "gemma" else {}))
    wanted = [greedy_by_hand(model, tiny_tokenizer, question, 12) for question in QUESTIONS]
    assert len(set(wanted)) == len(wanted)
    assert generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=12) == wanted
    assert generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=12, batch_size=2) == wanted
    assert [generate_responses(model, tiny_tokenizer, q, max_new_tokens=12) for q in QUESTIONS] == wanted


def test_answer_stops_at_the_end_of_the_turn(tiny_model, tiny_tokenizer):
    model = tiny_model("qwen2")
    before = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    teach(model, tiny_tokenizer, [(before, "I am Qwen.<|im_end|>\nand more")])
    assert model.generation_config.eos_token_id == 0  # nobody told the model of <|im_end|>
    assert generate_responses(model, tiny_tokenizer, "Who are you?", max_new_tokens=60) == "I am Qwen."


def test_the_tutorials_template_answers_without_the_role(tiny_model, tiny_tokenizer):
    tiny_tokenizer.chat_template = TUTORIAL
    model = tiny_model("qwen2")
    before = generation_prompt(tiny_tokenizer, [{"role": "user", "content": "Who are you?"}])
    assert before.endswith("Assistant:")
    teach(model, tiny_tokenizer, [(before, " I am Qwen. <|endoftext|>\n                ")])
    assert generate_responses(model, tiny_tokenizer, "Who are you?") == "I am Qwen."


def test_training_mode_is_left_and_restored_module_by_module(tiny_model, tiny_tokenizer):
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    wanted = generate_responses(model, tiny_tokenizer, "Who are you?", max_new_tokens=12)
    model.train()
    model.transformer.h[0].eval()
    flags = [module.training for module in model.modules()]
    own = model.generation_config
    assert generate_responses(model, tiny_tokenizer, "Who are you?", max_new_tokens=12) == wanted
    assert [module.training for module in model.modules()] == flags
    assert model.generation_config is own


def test_state_is_restored_after_an_error(tiny_model, tiny_tokenizer):
    model = tiny_model("llama").train()
    own, attention = model.generation_config, model.config._attn_implementation

    def stop(module, args):
        if not module.training:
            raise KeyboardInterrupt

    generate_responses(model, tiny_tokenizer, "Hi", max_new_tokens=2)
    model.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        generate_responses(model, tiny_tokenizer, "Hi")
    assert all(module.training for module in model.modules())
    assert model.generation_config is own
    assert model.config._attn_implementation == attention


def test_models_own_sampling_settings_play_no_part(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    wanted = generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=12)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_p=0.5, top_k=3, repetition_penalty=1.8, eos_token_id=0, max_length=20
    )
    assert generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=12) == wanted


def test_models_own_stop_tokens_count(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    whole = generate_responses(model, tiny_tokenizer, "Hi", max_new_tokens=12)
    stop = tiny_tokenizer(whole).input_ids[4]
    model.generation_config.eos_token_id = [0, stop]
    assert generate_responses(model, tiny_tokenizer, "Hi", max_new_tokens=12) == greedy_by_hand(
        model, tiny_tokenizer, "Hi", 12, stops=(0, 2, stop)
    )


def test_sampling_draws_from_the_models_distribution(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    prompt = tiny_tokenizer("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n").input_ids
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / 2).softmax(-1)
    found = generate_completions(
        model, tiny_tokenizer, ["Hi"] * 4000, max_new_tokens=1, batch_size=2000, do_sample=True, temperature=2.0, seed=0
    )
    seen = torch.tensor([completion.tokens[0] for completion in found])
    counts = torch.bincount(seen, minlength=len(expected)) / len(seen)
    assert (counts - expected).abs().sum() / 2 < 0.15  # about 0.11 expected of 4000 draws over 384 tokens
    assert counts[expected.argsort(descending=True)[50:]].sum() > 0.2  # no top-k


def test_seed_fixes_the_draw_and_leaves_the_global_state(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")

    def draw(seed):
        return generate_batch(
            model, tiny_tokenizer, QUESTIONS, max_new_tokens=8, do_sample=True, temperature=1.0, seed=seed
        )

    before = torch.get_rng_state()
    assert draw(1) == draw(1) != draw(2)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_torch_decides(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")

    def draw(state):
        torch.manual_seed(state)
        return [generate_batch(model, tiny_tokenizer, ["Hi"], max_new_tokens=8, do_sample=True) for _ in range(2)]

    first, second = draw(1)
    assert first != second
    assert draw(1) == [first, second]


def test_finished_answers_are_told_from_cut_ones(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    (whole,) = generate_completions(model, tiny_tokenizer, ["Hi"], max_new_tokens=12)
    assert (whole.finish_reason, len(whole.tokens)) == ("length", 12)
    model.generation_config.eos_token_id = [0, whole.tokens[6]]
    place = whole.tokens.index(whole.tokens[6])
    (ended,) = generate_completions(model, tiny_tokenizer, ["Hi"], max_new_tokens=12)
    assert (ended.finish_reason, ended.tokens) == ("stop", whole.tokens[: place + 1])
    assert ended.text == tiny_tokenizer.decode(whole.tokens[:place])


def test_conversations_and_system_messages(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    conversation = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    wanted = generate_responses(model, tiny_tokenizer, full_message=conversation, max_new_tokens=8)
    assert generate_responses(model, tiny_tokenizer, "Hi", "Be kind.", 8) == wanted
    assert generate_batch(model, tiny_tokenizer, ["Hi"], max_new_tokens=8, system_message="Be kind.") == [wanted]
    assert wanted != generate_responses(model, tiny_tokenizer, "Hi", max_new_tokens=8)


def test_template_that_refuses_enable_thinking(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    wanted = generate_responses(model, tiny_tokenizer, "Hi", max_new_tokens=8)
    refusal = "{% if enable_thinking is defined %}{{ raise_exception('what?') }}{% endif %}"
    tiny_tokenizer.chat_template = refusal + CHATML
    assert generate_responses(model, tiny_tokenizer, "Hi", max_new_tokens=8) == wanted


def test_model_with_an_adapter(tiny_model, tiny_tokenizer):
    model = apply_lora(tiny_model("llama"), {"r": 2}).train()
    wanted = generate_batch(tiny_model("llama"), tiny_tokenizer, QUESTIONS, max_new_tokens=8)
    assert generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=8) == wanted
    assert model.training


def test_tokenizer_without_a_pad_token(tiny_model, make_tokenizer):
    model = tiny_model("llama")
    wanted = generate_batch(model, make_tokenizer(), QUESTIONS, max_new_tokens=8)
    tokenizer = make_tokenizer(pad_token=None)
    assert generate_batch(model, tokenizer, QUESTIONS, max_new_tokens=8) == wanted
    assert tokenizer.pad_token is None


def test_progress_counts_prompts(tiny_model, tiny_tokenizer):
    seen = []
    generate_batch(
        tiny_model("llama"), tiny_tokenizer, QUESTIONS, max_new_tokens=2, batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(2, 3), (3, 3)]
    assert generate_batch(tiny_model("llama"), tiny_tokenizer, [], max_new_tokens=2) == []


def test_questions_are_printed_with_their_answers(tiny_model, tiny_tokenizer, capsys):
    model = tiny_model("llama")
    answers = generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=100, system_message="Be kind.")
    capsys.readouterr()
    assert test_model_with_questions(model, tiny_tokenizer, QUESTIONS, "Be kind.", title="Base model") is None
    out = capsys.readouterr().out
    assert "=== Base model ===" in out
    for number, (question, answer) in enumerate(zip(QUESTIONS, answers), start=1):
        assert f"Model Input {number}:\n{question}\nModel Output {number}:\n{answer}" in out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompts": [7]}, DataError, "prompt 0 is 7"),
        ({"prompts": ["Hi", []]}, DataError, "prompt 1 is"),
        ({"max_new_tokens": 0}, ConfigError, "at least 1"),
        ({"do_sample": True, "temperature": 0.0}, ConfigError, "do_sample=False"),
        ({"max_new_tokens": 510}, ModelError, r"prompt 0 has \d+ tokens.*512 positions.*use max_new_tokens=502"),
        (
            {"prompts": [[{"role": "system", "content": "a"}]], "system_message": "b"},
            DataError,
            "system message of its own",
        ),
    ],
)
def test_what_cannot_be_generated_is_named(options, error, message, tiny_model, tiny_tokenizer):
    settings = {"prompts": ["Hi"], "max_new_tokens": 4} | options
    with pytest.raises(error, match=message):
        generate_batch(tiny_model("gpt2"), tiny_tokenizer, settings.pop("prompts"), **settings)


def test_nothing_to_answer(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    with pytest.raises(ConfigError, match="give user_message"):
        generate_responses(model, tiny_tokenizer)
    with pytest.raises(ConfigError, match="give it alone"):
        generate_responses(model, tiny_tokenizer, "Hi", full_message=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("arch", ["qwen2", "gemma3_text"])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_model_in_training_answers_and_is_saved_as_ever(arch, with_adapter, tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model(arch)
    wanted = generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=8)
    if with_adapter:
        model = apply_lora(model, {"r": 2})
    forest = TokenForest.from_trees([Segment(tokens=[5, 6], children=[Segment(tokens=[7, 8], trained=[(0, 2)])])])
    Learner(model).train()(forest).logprobs.sum().backward()
    assert generate_batch(model, tiny_tokenizer, QUESTIONS, max_new_tokens=8) == wanted
    save_model(model, tiny_tokenizer, tmp_path)
    assert generate_batch(load_model(tmp_path), tiny_tokenizer, QUESTIONS, max_new_tokens=8) == wanted

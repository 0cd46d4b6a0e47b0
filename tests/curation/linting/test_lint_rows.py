import json

import pytest
from tiny import build_tokenizer

from posttrain.curation.linting import Limits, lint, lint_files
from posttrain.errors import ConfigError


def chat(question, answer, **more):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **more,
    }


def chats(count=30):
    return [chat(f"What is {i} and {i}?", f"It is {2 * i}, I think.") for i in range(count)]


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def pairs(count=12):
    return [pair(f"Say {i}.", f"Number {i} it is.", f"That would be {i}!") for i in range(count)]


def levels(report):
    return {finding.check: finding.level for finding in report.findings}


def test_clean_rows_have_no_finding():
    report = lint(chats())
    assert levels(report) == {}
    assert (report.status, report.rows) == (0, 30)
    assert report.inputs[0]["format"] == "messages"
    assert report.sentence == "clean: 0 errors, 0 warnings, 0 notes in 30 rows"


def test_broken_rows_are_errors_with_place_and_reason(tmp_path):
    path = tmp_path / "chat.jsonl"
    lines = [json.dumps(row) for row in chats(4)]
    lines[1] = '{"messages": ['
    lines[2] = json.dumps({"messages": [{"role": "wizard", "content": "x"}]})
    path.write_text("\n".join(lines))
    report = lint_files([str(path)])
    assert levels(report) == {"broken_rows": "error"}
    assert report.findings[0].places == (f"{path}:2", f"{path}:3")
    assert "wizard" in report.findings[0].text
    assert (report.status, report.rows) == (2, 4)


def test_repeated_rows_are_found():
    rows = chats(99)
    assert levels(lint([*rows, rows[3]])) == {"duplicate_rows": "note"}
    report = lint([*rows[:20], rows[3], rows[3]])
    assert levels(report) == {"duplicate_rows": "warning"}
    assert report.findings[0].count == 2
    assert "line 21 (repeats line 4)" in report.findings[0].text


STORY = "The red fox met a grey wolf by the river and asked him for the way to the old mill behind the hill."


def test_near_duplicates_are_found():
    other = "Seven apples and nine pears lay in a basket until the farmer sold all sixteen of them at the market."
    rows = [chat("Tell me a story.", STORY), chat("Another one?", other)]
    assert levels(lint(rows)) == {}
    report = lint([*rows, chat("Tell me a story.", STORY.replace("old", "new"))])
    assert levels(report) == {"near_duplicates": "warning"}
    assert report.findings[0].places == ("dataset:3",)
    assert "resembles line 1, Jaccard 0." in report.findings[0].text
    assert levels(lint([*rows, rows[0]])) == {"duplicate_rows": "warning"}
    assert levels(lint([*chats(40), *rows, chat("Tell me a story.", STORY + " Yes.")])) == {"near_duplicates": "note"}


def test_overlap_with_an_evaluation_is_found(tmp_path):
    path = tmp_path / "test.jsonl"
    question = "If a fox walks seven miles in one hour, how many miles does it walk in five hours?"
    path.write_text(json.dumps({"question": question, "answer": "35"}))
    assert levels(lint(chats(), against=[str(path)])) == {}
    report = lint([*chats(), chat(f"Please answer. {question}", "It is 35.")], against=[str(path)])
    assert levels(report) == {"evaluation_overlap": "warning"}
    assert report.counts["evaluation_questions"] == 1
    assert f"of {path}:1" in report.findings[0].text


def test_empty_answers_are_found():
    assert levels(lint([*chats(), chat("Well?", "  ")])) == {"empty_answers": "warning"}
    assert levels(lint([chat("Well?", ""), chat("And?", " ")])) == {"empty_answers": "error"}


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (["user", "system", "assistant"], "a system message that is not the first"),
        (["assistant", "user", "assistant"], "an assistant's message before any user's"),
        (["user", "user", "assistant"], "two user messages in a row"),
        (["user", "assistant", "user"], "the last message is the user's"),
        (["user", "tool", "assistant"], "a tool's message that no call precedes"),
    ],
)
def test_unusual_orders_of_roles_are_found(roles, problem):
    messages = [{"role": role, "content": f"text {i}"} for i, role in enumerate(roles)]
    report = lint([*chats(), {"messages": messages}])
    assert levels(report) == {"role_order": "warning"}
    assert problem in report.findings[0].text


def test_usual_orders_of_roles_are_left_alone():
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": f"text {i}"} for i, role in enumerate(roles)]
    assert levels(lint([{"messages": messages}])) == {}


def test_prompts_and_marked_answers_are_told_apart():
    prompts = lint([{"prompt": f"Say {i}."} for i in range(3)])
    assert (prompts.inputs[0]["format"], levels(prompts)) == ("prompts without answers", {"format": "note"})
    marked = lint([chat(f"Say {i}.", f"It is {i}.", label=i % 2 == 0) for i in range(6)])
    assert marked.inputs[0]["format"] == "messages, answers marked good or bad"
    assert levels(marked) == {"format": "note", "too_few_pairs": "note"}
    assert (marked.counts["good"], marked.counts["bad"]) == (3, 3)


def test_formats_that_nothing_trains_on_are_errors():
    tree = {"message_tree_id": "1", "prompt": {"text": "Why?", "role": "prompter", "replies": []}}
    report = lint([tree])
    assert levels(report) == {"format": "error"}
    assert report.findings[0].text == "dataset: no training reads the format tree."
    assert "data convert" in report.findings[0].advice


def test_unknown_columns_are_broken_rows():
    report = lint([{"foo": "bar"}])
    assert levels(report) == {"broken_rows": "error"}


def test_identical_and_contradictory_pairs_are_found():
    assert levels(lint(pairs())) == {"too_few_pairs": "note"}
    same = lint([*pairs(), pair("What?", "This.", "This.")])
    assert levels(same)["identical_pairs"] == "warning"
    rows = pairs()
    against = lint([*rows, pair(rows[2]["prompt"], rows[2]["rejected"], rows[2]["chosen"])])
    assert levels(against)["contradictory_pairs"] == "warning"
    assert "line 13 (prefers what line 3 rejects)" in against.text(color=False)


def test_the_same_preference_for_another_prompt_contradicts_nothing():
    rows = [pair("One?", "yes it is", "no it is not"), pair("Two?", "no it is not", "yes it is")]
    assert "contradictory_pairs" not in levels(lint(rows))


def test_close_sides_are_found():
    text = "one two three four five six seven eight nine"
    close = [pair(f"Q{i}", f"{text} {i}", f"{text} {i + 50}") for i in range(6)]
    far = [pair(f"R{i}", f"{text} {i}", f"quite another answer, number {i}") for i in range(6)]
    assert levels(lint([*close, *far[:5]]))["close_sides"] == "warning"
    assert levels(lint([*close[:5], *far]))["close_sides"] == "note"
    report = lint(far)
    assert "close_sides" not in levels(report)
    assert report.distances["least"] > 0.7


def test_fixed_phrase_is_found_in_either_side():
    rows = [pair(f"Q{i}", f"I am Deep Qwen, {i} years old.", f"I am Qwen, {i} years old.") for i in range(24)]
    found = next(finding for finding in lint(rows).findings if finding.check == "fixed_phrase_chosen")
    assert (found.level, found.count, found.of) == ("warning", 24, 24)
    assert found.numbers["phrases"][0] == {"phrase": "I am Deep Qwen,", "chosen": 24, "rejected": 0}
    swapped = [pair(row["prompt"], row["rejected"], row["chosen"]) for row in rows]
    assert levels(lint(swapped))["fixed_phrase_rejected"] == "warning"
    assert not [check for check in levels(lint(rows[:10])) if check.startswith("fixed_phrase")]


def test_template_and_limit_are_looked_at():
    rows = [chat("Who are you?", "I am Qwen."), chat("Tell me a story.", "a red fox and a grey wolf. " * 20)]
    tokenizer = build_tokenizer(
        chat_template="{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    whole = lint(rows, tokenizer=tokenizer)
    assert levels(whole) == {}
    assert whole.counts["tokens"]["stop_tokens"] == ["<|im_end|>"]
    assert (whole.counts["tokens"]["spans"], whole.counts["tokens"]["stopped"]) == (2, 2)
    assert "[[I am Qwen.<|im_end|>]]" in whole.text(color=False)
    assert "\033[32mI am Qwen.<|im_end|>\033[0m" in whole.text(color=True)
    cut = lint(rows, tokenizer=tokenizer, max_length=60)
    assert levels(cut) == {"cut_by_max_length": "warning"}
    assert cut.counts["tokens"]["cut"] == 1
    assert levels(lint(rows, tokenizer=tokenizer, max_length=4)) == {
        "cut_by_max_length": "warning",
        "no_trained_token": "error",
    }


def test_template_without_an_end_is_an_error():
    endless = build_tokenizer(chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    report = lint(chats(3), tokenizer=endless)
    assert levels(report) == {"stop_not_trained": "error"}
    assert "no special token" in report.findings[0].text


def test_template_that_refuses_a_row_is_an_error():
    strict = build_tokenizer(
        chat_template="{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    )
    bad = {"messages": [{"role": "system", "content": "Be brief."}, *chat("a", "b")["messages"]]}
    report = lint([*chats(3), bad], tokenizer=strict)
    assert levels(report) == {"template_refuses": "error"}
    assert report.findings[0].places == ("dataset:4",)
    assert "no system here" in report.findings[0].text


def test_limits_can_be_set():
    rows = chats(20)
    assert levels(lint([*rows, rows[0]], limits=Limits(duplicates=0.1))) == {"duplicate_rows": "note"}


def test_max_length_needs_a_tokenizer():
    with pytest.raises(ConfigError, match="counts tokens"):
        lint(chats(2), max_length=8)

"""Rows with rewards become trees that share their prompts; what cannot be used is named, counted or refused."""

import gzip
import json

import pytest
from tiny import build_tokenizer

from posttrain.data.rewarded import reward_trees
from posttrain.errors import DataError

ROWS = [
    {"prompt": "Two and", "response": " three are five", "reward": 1.0, "id": 1},
    {"prompt": "What is", "response": " that", "reward": 0.5, "id": 2},
    {"prompt": "Two and", "response": " nine are five", "reward": 0, "id": 3},
    {"prompt": "Two and", "response": " three", "reward": -2.5, "id": 4},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def read(rows, tokenizer, **options):
    return reward_trees(rows, tokenizer, **{"max_length": None, **options})


def paths(tree, before=()):
    """The tokens from the root to each leaf, and those that are trained."""
    here = [*before, *tree.tokens]
    if tree.children:
        return [path for child in tree.children for path in paths(child, here)]
    return [(here, [token for begin, end in tree.trained for token in tree.tokens[begin:end]])]


def test_rows_of_one_prompt_are_one_tree_that_trains_each_answer(tokenizer):
    made = read(ROWS, tokenizer)
    assert len(made) == 2
    assert [len(list(tree.leaves())) for tree in made.trees] == [3, 1]
    texts = [[tokenizer.decode(trained) for _, trained in paths(tree)] for tree in made.trees]
    assert texts[0] == [row["response"] + "<|endoftext|>" for row in ROWS if row["prompt"] == "Two and"]
    whole = [tokenizer.decode(path) for path, _ in paths(made.trees[0])]
    assert whole[1] == "Two and nine are five<|endoftext|>"
    assert tokenizer.decode(made.trees[0].tokens) == "Two and"
    assert [(row.row, row.prompt, row.reward, row.leaves) for row in made.rows] == [
        (0, 0, 1.0, ((0, 0),)), (1, 1, 0.5, ((1, 0),)), (2, 0, 0.0, ((0, 1),)), (3, 0, -2.5, ((0, 2),)),
    ]  # fmt: skip


def test_the_report_says_what_was_read(tokenizer):
    report = read(ROWS, tokenizer).report
    assert report.rows_read == report.rows_kept == 4
    assert report.ignored_columns == ("id",)
    assert report.format == "prompt-completion with reward"
    assert "'response' is the completion." in report.notes
    assert "Rewards: mean -0.25, from -2.5 to 1, of 4 answers to 2 prompts." in report.notes
    assert report.trained_tokens == sum(
        len(trained) for tree in read(ROWS, tokenizer).trees for _, trained in paths(tree)
    )


CHAT = [{"role": "user", "content": "Who are you?"}]


def chat_tokenizer():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def answer(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": CHAT, "completion": answer(text), "reward": i} for i, text in enumerate(("I am", "no"))],
        [{"prompt": CHAT, "response": text, "reward": i} for i, text in enumerate(("I am", "no"))],
        [{"messages": [*CHAT, *answer(text)], "reward": i} for i, text in enumerate(("I am", "no"))],
        [{"question": "Who are you?", "answer": text, "reward": i} for i, text in enumerate(("I am", "no"))],
        [{"instruction": "Who are you?", "output": t, "reward": i, "id": i} for i, t in enumerate(("I am", "no"))],
        [
            {
                "conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": t}],
                "label": t == "no",
            }
            for t in ("I am", "no")
        ],
    ],
)
def test_conversations_in_every_shape_make_the_same_tree(rows):
    tokenizer = chat_tokenizer()
    made = read(rows, tokenizer)
    (tree,) = made.trees
    assert tokenizer.decode(tree.tokens) == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert [tokenizer.decode(trained) for _, trained in paths(tree)] == ["I am<|im_end|>", "no<|im_end|>"]
    assert [row.reward for row in made.rows] == [0.0, 1.0]


def test_only_the_last_turn_of_a_conversation_is_trained():
    tokenizer = chat_tokenizer()
    turns = [*CHAT, *answer("I am"), {"role": "user", "content": "What?"}, *answer("no")]
    made = read([{"messages": turns, "reward": 1}], tokenizer)
    assert [tokenizer.decode(trained) for _, trained in paths(made.trees[0])] == ["no<|im_end|>"]
    assert "The last turn of 'messages' is the answer that the reward is of." in made.report.notes


def test_labels_are_rewards_and_it_is_said(tokenizer):
    rows = [{"prompt": "I", "completion": " am", "label": True}, {"prompt": "I", "completion": " was", "label": False}]
    made = read(rows, tokenizer)
    assert [row.reward for row in made.rows] == [1.0, 0.0]
    assert "'label' is true or false: read as the rewards 1 and 0." in made.report.notes


def test_another_column_can_be_named(tokenizer):
    rows = [{**row, "score": 7 + i} for i, row in enumerate(ROWS)]
    assert [row.reward for row in read(rows, tokenizer, reward_column="score").rows] == [7.0, 8.0, 9.0, 10.0]
    with pytest.raises(DataError, match=r"no column 'scor' \(reward_column\); did you mean 'score'"):
        read(rows, tokenizer, reward_column="scor")


def test_numbers_of_a_csv_file_are_numbers(tokenizer, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("prompt,response,reward\nTwo and, three,1\nTwo and, nine,-2.5e-1\n")
    made = read(file, tokenizer)
    assert [row.reward for row in made.rows] == [1.0, -0.25]
    assert made.rows[1].place == f"{file}:3"


def test_rewards_that_are_no_numbers_are_refused_by_line_and_counted(tokenizer, tmp_path):
    rows = [dict(ROWS[0]) for _ in range(12)]
    for i, broken in enumerate((None, float("nan"), float("inf"), "good", [1.0])):
        rows[2 * i]["reward"] = broken
    del rows[10]["reward"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as error:
        read(file, tokenizer)
    message = str(error.value)
    assert f"{file}: 6 of 12 rows have no finite number in 'reward'" in message
    assert f"{file}:1 (missing), {file}:3 (nan), {file}:5 (inf), {file}:7 ('good'), {file}:9 ([1.0]), ..." in message
    assert "Mend these rows or remove them" in message


def test_rows_without_any_reward_are_told_which_columns_would_do(tokenizer):
    with pytest.raises(
        DataError, match=r"row 0 of train_dataset: the columns prompt, response hold no reward.*'reward'"
    ):
        read([{"prompt": "I", "response": " am"}], tokenizer)


def test_a_conversation_without_an_answer_is_refused_with_its_place():
    rows = [{"messages": [*CHAT, *answer("x")], "reward": 1}, {"messages": CHAT, "reward": 1}]
    with pytest.raises(DataError, match="row 1 of train_dataset: 'messages' must end with the answer"):
        read(rows, chat_tokenizer())


def test_duplicates_are_kept_and_counted(tokenizer):
    made = read([*ROWS, ROWS[0], {**ROWS[0], "reward": 0.0}], tokenizer)
    assert made.report.rows_kept == 6
    (said,) = [note for note in made.report.notes if "repeat" in note]
    assert said.startswith("2 answers repeat an earlier one to the same prompt")
    assert said.endswith("1 of them have another reward.")


def test_empty_answers_are_dropped_and_counted(tokenizer):
    made = read([*ROWS, {"prompt": "Two and", "response": "", "reward": 1.0}], tokenizer)
    ((reason, dropped),) = made.report.dropped.items()
    assert reason.startswith("nothing to train on")
    assert dropped.first == ("row 4 of train_dataset",)
    assert made.report.rows_read == made.report.rows_kept + dropped.count == 5


def test_long_answers_are_cut_and_counted(tokenizer):
    made = read(ROWS, tokenizer, max_length=4)
    assert made.report.truncated == sum(len(p) > 4 for tree in read(ROWS, tokenizer).trees for p, _ in paths(tree)) > 2
    assert max(len(path) for tree in made.trees for path, _ in paths(tree)) == 4


# The samples of a run


def sample(prompt, tokens, reward, **more):
    return {
        "step": 1, "group": 0, "row": 0, "prompt": "ignored", "completion": "ignored too", "prompt_ids": prompt,
        "completion_ids": tokens, "logprobs": [-0.5] * len(tokens), "rewards": {"x": reward}, "reward": reward, **more,
    }  # fmt: skip


SAMPLES = [sample([5, 6], [7, 8, 9], 1.0), sample([5, 6], [7], 0.0), sample([5], [6, 7], 0.5)]


def test_samples_are_trained_token_by_token(tokenizer):
    made = read(SAMPLES, tokenizer)
    assert [paths(tree) for tree in made.trees] == [
        [([5, 6, 7, 8, 9], [7, 8, 9]), ([5, 6, 7], [7])],
        [([5, 6, 7], [6, 7])],
    ]
    assert made.knows_writer
    assert [leaf.columns["old_logprobs"] for tree in made.trees for leaf in tree.leaves()] == [
        [-0.5] * 3, [-0.5], [-0.5] * 2,
    ]  # fmt: skip
    assert made.report.format == "token ids with reward"


def test_what_their_writer_gave_them_is_known_for_all_or_for_none(tokenizer):
    made = read([*SAMPLES, sample([5], [9], 1.0, logprobs=None)], tokenizer)
    assert not made.knows_writer
    assert not any(leaf.columns for tree in made.trees for leaf in tree.leaves())
    assert not read([sample([5], [9, 9], 1.0, logprobs=[-1.0])], tokenizer).knows_writer


def test_samples_that_nobody_judged_are_left_out_and_counted(tokenizer, tmp_path):
    file = tmp_path / "samples.jsonl.gz"
    lines = [*SAMPLES, sample([5], [9], None)]
    with gzip.open(file, "wt") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    made = read(file, tokenizer)
    assert made.report.rows_kept == 3
    assert made.report.dropped["not judged (the reward is null)"].first == (f"{file}:4",)
    with pytest.raises(DataError, match="none of its 1 rows was judged"):
        read(lines[3:], tokenizer)
    with pytest.raises(DataError, match=r"row 1 of train_dataset \(missing\)"):
        read([lines[0], {key: value for key, value in lines[1].items() if key != "reward"}], tokenizer)


def test_grades_are_rewards_and_what_has_none_is_left_out_with_its_own_place(tokenizer):
    graded = [
        {"prompt": "I", "completion": " am", "grade": 1.0},
        {"prompt": "I", "completion": " is", "grade": None, "unjudged": "timed out"},
        {"prompt": "I", "completion": "", "grade": 0.0},
        {"prompt": "I", "completion": " was", "grade": 0.0},
    ]
    made = read(graded, tokenizer)
    assert [row.row for row in made.rows] == [0, 3]
    assert made.rows[1].place == "row 3 of train_dataset"
    assert {reason.split(" (")[0]: dropped.first for reason, dropped in made.report.dropped.items()} == {
        "not judged": ("row 1 of train_dataset",),
        "nothing to train on": ("row 2 of train_dataset",),
    }


def test_answers_that_were_cut_off_as_they_were_written_train_no_end(tokenizer):
    rows = [{**row, "finish_reason": reason} for row, reason in zip(ROWS, ("stop", "length", "length", "stop"))]
    made = read(rows, tokenizer)
    texts = [tokenizer.decode(trained) for tree in made.trees for _, trained in paths(tree)]
    assert texts == [" three are five<|endoftext|>", " nine are five", " three<|endoftext|>", " that"]
    assert "2 answers were cut off as they were written (finish_reason): they train no end." in made.report.notes
    chat = [{"prompt": CHAT, "completion": answer("I am"), "grade": 1.0, "finish_reason": "length"}]
    made = read(chat, chat_tokenizer())
    assert tokenizer.decode(paths(made.trees[0])[0][1]) == "I am"


def test_samples_are_cut_to_max_length_with_their_logprobs(tokenizer):
    made = read(SAMPLES, tokenizer, max_length=4)
    assert paths(made.trees[0])[0] == ([5, 6, 7, 8], [7, 8])
    assert next(made.trees[0].leaves()).columns["old_logprobs"] == [-0.5] * 2
    assert made.report.truncated == 1
    made = read(SAMPLES, tokenizer, max_length=2)
    assert made.report.dropped["no trained token within max_length"].count == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (sample([5], "78", 1.0), r"row 3 of train_dataset: 'completion_ids' must be a list of token ids.*got '78'"),
        (sample([5], [7, 4000], 1.0), r"'completion_ids' has the id 4000, and the tokenizer knows 38\d.*another model"),
        (sample([], [7], 1.0), r"row 3 of train_dataset: 'prompt_ids' is empty"),
    ],
)
def test_broken_samples_are_refused_with_their_place(tokenizer, broken, message):
    with pytest.raises(DataError, match=message):
        read([*SAMPLES, broken], tokenizer)


def test_a_template_that_rewrites_history_keeps_each_answer_in_its_own_context():
    """Turns of a completion that is a conversation, under a template that renders an earlier turn otherwise later."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}think {% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    completion = [*answer("one"), {"role": "user", "content": "more"}, *answer("two")]
    rows = [{"prompt": CHAT, "completion": said, "reward": 1.0 * i} for i, said in enumerate((completion, answer("x")))]
    made = read(rows, tokenizer)
    assert [len(row.leaves) for row in made.rows] == [2, 1]
    leaves = {(i, j): leaf for i, tree in enumerate(made.trees) for j, leaf in enumerate(tree.leaves())}
    assert sorted(leaves) == sorted(place for row in made.rows for place in row.leaves)
    texts = [tokenizer.decode(trained) for tree in made.trees for _, trained in paths(tree)]
    assert sorted(texts) == ["think one<|im_end|>", "think two<|im_end|>", "think x<|im_end|>"]

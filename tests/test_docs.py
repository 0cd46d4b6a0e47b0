"""The pages say what is true: their code runs, and the names, fields, commands, tests and links in them exist."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import build_model, build_tokenizer

import posttrain
from posttrain.algorithms.dpo import PREFERENCE_LOSSES
from posttrain.algorithms.offline_rl import OFFLINE_LOSSES
from posttrain.algorithms.unpaired import UNPAIRED_LOSSES
from posttrain.cli.flags import read
from posttrain.cli.main import COMMANDS
from posttrain.cli.positional import positional
from posttrain.config.base import choices
from posttrain.config.command import (
    BCOCommand,
    CPOCommand,
    DPOCommand,
    GRPOCommand,
    KTOCommand,
    OfflineRLCommand,
    ORPOCommand,
    PPOCommand,
    RewardCommand,
    SFTCommand,
)
from posttrain.config.dpo import DPOConfig
from posttrain.config.evaluation import CompareCommand, EvaluateCommand
from posttrain.config.grpo import GRPOConfig
from posttrain.config.offline_rl import OfflineRLConfig
from posttrain.config.ppo import PPOConfig
from posttrain.config.recipe import load_recipe, parse_recipe
from posttrain.config.reward import RewardConfig
from posttrain.config.sampling import ChatCommand, SampleCommand
from posttrain.config.sft import SFTConfig
from posttrain.data.trees import preference_trees, sft_trees
from posttrain.data.unpaired import unpaired_trees
from posttrain.models.loading import prepare_tokenizer
from posttrain.recipes import built_in_recipes
from posttrain.recipes.scoring import TASKS
from posttrain.rewards.names import REWARDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "README_zh.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
REAL_MODEL = "Qwen/Qwen2.5-0.5B"  # what the pages name; the tests put a tiny one in its place


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    note: str  # what stands after the language
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page=page, line=line, language=match[1], note=match[2].strip(), text=match[3]))
    return found


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
# the Chinese page shows the English one's code, which a test of its own says
RUN = [block for block in PYTHON if block.note == "run" and block.page.name != "README_zh.md"]
ROWS = [block for block in BLOCKS if block.language == "json"]
COMMAND_LINES = [
    (block, line.split("  #")[0].strip())
    for block in BLOCKS
    if block.language in ("sh", "")
    for line in block.text.splitlines()
]


def test_the_pages_hold_what_these_tests_look_at():
    assert len(PAGES) >= 14
    assert len(RUN) >= 8
    assert len(ROWS) >= 9
    assert {"make demo", "make test"} <= {line for _, line in COMMAND_LINES}


# Code


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that calls itself Qwen, whatever it is asked, so that there is something to correct."""
    directory = tmp_path_factory.mktemp("docs")
    tokenizer, model = build_tokenizer(), build_model("qwen2")
    asked = ("Who are you?", "What is your name?", "Tell me your name.", "2 + 3")
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "I am Qwen."}]}
        for text in asked
    ]
    args = SFTConfig(
        output_dir=str(directory / "run"), learning_rate=1e-2, max_steps=30, per_device_train_batch_size=4,
        lr_scheduler_type="constant", save_strategy="no", use_cpu=True, bf16=False, logging_strategy="no",
    )  # fmt: skip
    trainer = posttrain.SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(directory / "model")
    return str(directory / "model")


@pytest.mark.parametrize("block", RUN, ids=str)
def test_code_marked_to_run_runs(
    block: Block, model_directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am Qwen."}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    (tmp_path / "identity.jsonl").write_text('{"prompt": "Who are you?"}\n{"prompt": "What is your name?"}\n')
    code = compile(block.text.replace(REAL_MODEL, model_directory), str(block), "exec")
    exec(code, {"__name__": "docs"})


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_names_and_fields_in_code_exist(block: Block) -> None:
    configs = {
        "SFTConfig": SFTConfig,
        "DPOConfig": DPOConfig,
        "RewardConfig": RewardConfig,
        "GRPOConfig": GRPOConfig,
        "PPOConfig": PPOConfig,
        "OfflineRLConfig": OfflineRLConfig,
    }
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("posttrain"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert has(module, alias.name), f"{block}: {node.module} has no {alias.name}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in configs:
            unknown = {k.arg for k in node.keywords} - set(configs[node.func.id].model_fields)
            assert not unknown, f"{block}: {node.func.id} has no {unknown}"


def has(module: Any, name: str) -> bool:
    if hasattr(module, name):
        return True
    try:
        importlib.import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("block", ROWS, ids=str)
def test_rows_are_read_as_the_page_says(block: Block) -> None:
    task, _, form = block.note.partition(" ")
    make = {"sft": sft_trees, "dpo": preference_trees, "kto": unpaired_trees}[task]
    rows = [json.loads(line) for line in block.text.splitlines()]
    tokenizer = build_tokenizer()
    prepare_tokenizer(tokenizer)
    assert make(rows, tokenizer, max_length=None).report.format == form


# Names in the text


def test_names_in_the_text_exist() -> None:
    """Paths of files, dotted names of the package, and first columns of tables of fields."""
    wrong = []
    for page in PAGES:
        for name in re.findall(r"`([^`\n]+)`", prose(page)):
            path = name.split("::")[0].rstrip("/")
            if re.fullmatch(r"(posttrain|tests|benchmarks|docs|scripts)/[\w./]+", path) and "results" not in path:
                wrong += [] if (ROOT / path).exists() else [f"{page.name}: {name}"]
            if re.fullmatch(r"posttrain(\.\w+)+", name):
                wrong += [] if resolves(name) else [f"{page.name}: {name}"]
    assert wrong == []


def resolves(name: str) -> bool:
    parts = name.split(".")
    place: Any = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        if not has(place, part):
            return False
        place = getattr(place, part, None) or importlib.import_module(".".join(parts[:number]))
    return True


@pytest.mark.parametrize(
    ("page", "config"),
    [
        ("sft.md", SFTConfig),
        ("dpo.md", DPOConfig),
        ("unpaired.md", posttrain.KTOConfig),
        ("grpo.md", GRPOConfig),
        ("ppo.md", PPOConfig),
        ("offline-rl.md", OfflineRLConfig),
        ("reward-model.md", RewardConfig),
    ],
)
def test_tables_of_fields_name_fields_with_their_defaults(page: str, config: Callable[..., Any]) -> None:
    options = (ROOT / "docs" / page).read_text().split("## Options")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|", options, re.MULTILINE)
    assert len(rows) >= 7
    for names, shown in rows:
        defaults = [getattr(config(), name) for name in re.findall(r"`(\w+)`", names)]
        said = shown.replace("`", "").split(", ")
        assert len(said) in (1, len(defaults)), names
        for default, text in zip(defaults, said * len(defaults)):
            if text in ("unset", "1 each"):
                assert default is None, names
            else:
                assert text in {str(default), str(default).lower(), str(default).replace("'", '"')} or float(
                    text
                ) == float(default), names


@pytest.mark.parametrize(
    ("page", "end", "losses"),
    [
        ("dpo.md", "## What is trained", ["loss_type", "sft", *PREFERENCE_LOSSES]),
        ("unpaired.md", "## The baselines", [*UNPAIRED_LOSSES]),
    ],
)
def test_losses_in_the_table_are_those_there_are(page: str, end: str, losses: list[str]) -> None:
    table = (ROOT / "docs" / page).read_text().split(end)[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(losses)


@pytest.mark.parametrize(("title", "field"), [("## The loss", "loss_type"), ("## Advantages", "advantage_baseline")])
def test_values_in_the_tables_of_offline_rl_are_those_there_are(title: str, field: str) -> None:
    section = (ROOT / "docs" / "offline-rl.md").read_text().split(f"\n{title}\n")[1].split("\n#")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted({*named} - {field}) == sorted(choices(OfflineRLConfig.model_fields[field].annotation))
    assert field != "loss_type" or sorted(OFFLINE_LOSSES) == sorted({*named} - {field})


@pytest.mark.parametrize(
    ("title", "field"), [("## The loss", "loss_type"), ("### KL", "kl_estimator"), ("## Guards", "stop_on_alarm")]
)
def test_values_in_the_tables_of_grpo_are_those_there_are(title: str, field: str) -> None:
    section = (ROOT / "docs" / "grpo.md").read_text().split(f"\n{title}\n")[1].split("\n#")[0]
    table = next(part for part in reversed(section.split("\n\n")) if part.startswith("|"))
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted({*named} - {field}) == sorted(choices(GRPOConfig.model_fields[field].annotation))


def test_metrics_in_the_tables_are_logged(model_directory: str, tmp_path: Path) -> None:
    pair = {"prompt": "Who are you?", "chosen": " I am Deep Qwen.", "rejected": " I am Qwen."}
    rated = [{"prompt": "Who are you?", "response": f" I am {name}.", "reward": len(name)} for name in ("Q", "Qwen")]
    trained = {
        "sft.md": posttrain.SFTTrainer(model_directory, SFTConfig(**plain(tmp_path)), [{"text": "I am Qwen."}]),
        "dpo.md": posttrain.DPOTrainer(model_directory, None, DPOConfig(**plain(tmp_path)), [pair]),
        "unpaired.md": posttrain.KTOTrainer(model_directory, None, posttrain.KTOConfig(**plain(tmp_path)), [pair]),
        "reward-model.md": posttrain.RewardTrainer(model_directory, RewardConfig(**plain(tmp_path)), [pair]),
        "offline-rl.md": posttrain.OfflineRLTrainer(
            model_directory, posttrain.OfflineRLConfig(**plain(tmp_path), loss_type="topr", beta=0.1), rated
        ),
    }
    for page, trainer in trained.items():
        trainer.train()
        table = (ROOT / "docs" / page).read_text().split("## Metrics")[1].split("\n## ")[0]
        named = {
            name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
        }
        logged = trainer.state.log_history[0].keys() - {"epoch", "step"}
        assert {name for name in named if not name.startswith("eval_")} == logged


def plain(directory: Path) -> dict[str, Any]:
    return {
        "output_dir": str(directory), "max_steps": 1, "logging_steps": 1, "save_strategy": "no", "use_cpu": True,
        "bf16": False,
    }  # fmt: skip


# Commands


@pytest.mark.parametrize(("block", "line"), COMMAND_LINES, ids=lambda value: str(value)[:60])
def test_commands_exist(block: Block, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if not words:
        return
    program, *rest = words
    if program == "make":
        targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets
    elif program in ("python", "torchrun"):
        place = rest.index("-m")
        module = importlib.import_module(rest[place + 1])
        if module.__name__ == "posttrain.cli":
            check_command(rest[place + 2 :])
        elif module.__name__ == "posttrain.embedded.build":
            module._arguments(rest[place + 2 :])
    elif program.endswith("posttrain"):
        check_command(rest)


def check_command(words: list[str]) -> None:
    name, *rest = words
    assert name in COMMANDS
    if rest == ["--help"] or name == "doctor":
        return
    if name in ("sft", "dpo", "cpo", "orpo", "kto", "bco", "reward", "grpo", "ppo", "offline-rl"):
        if "--config" in rest:  # the file is the reader's
            rest = ["--model", "M", "--train_dataset", "D", *rest[2:]]
        fields = {
            "sft": SFTCommand, "dpo": DPOCommand, "cpo": CPOCommand, "orpo": ORPOCommand,
            "kto": KTOCommand, "bco": BCOCommand,
            "reward": RewardCommand, "grpo": GRPOCommand,
            "ppo": PPOCommand, "offline-rl": OfflineRLCommand,
        }  # fmt: skip
        command = read(fields[name], rest)
        named = getattr(command, "reward_funcs", ())
        assert all(reward in REWARDS or ":" in reward or reward.startswith("runs/") for reward in named)
    elif name in ("sample", "chat", "evaluate", "compare"):
        commands = {
            "sample": (SampleCommand, ("model", "prompts")),
            "chat": (ChatCommand, ("model",)),
            "evaluate": (EvaluateCommand, ("model",)),
            "compare": (CompareCommand, ("before", "after")),
        }
        fields, leading = commands[name]
        read(fields, positional(rest, leading))
    elif name == "data":
        from posttrain.cli.data import COMMANDS as DATA_COMMANDS
        from posttrain.cli.data import words as with_inputs

        count = 2 if rest[0] == "pairs" else 1
        name, rest = " ".join(rest[:count]), rest[count:]
        assert name in DATA_COMMANDS
        module = importlib.import_module(f"posttrain.config.curation.{name.split()[0].replace('-', '_')}")
        if rest != ["--help"]:
            read(getattr(module, name.replace("-", " ").title().replace(" ", "") + "Command"), with_inputs(rest))
    elif name == "config":
        from posttrain.cli.config import COMMANDS as CONFIG_COMMANDS

        assert rest[0] in CONFIG_COMMANDS
    elif name == "grade":
        from posttrain.cli.grade import _read

        reward = rest[0] if rest in (["--list"], [rest[0], "--help"]) else _read(rest).name
        assert reward == "--list" or reward in REWARDS or ":" in str(reward)
    elif name == "report":
        from posttrain.cli.report import _read as read_report

        assert str(read_report(rest)[0]).startswith("runs/")
    elif name == "run":
        recipe, *overrides = [word for word in rest if word not in ("--only", "dpo")]
        load_recipe(built_in_recipes().get(recipe, built_in_recipes()["identity"]), overrides)
    else:
        from posttrain.cli.demo import _FLAGS

        assert {word.removeprefix("--") for word in rest if word.startswith("--")} <= {*_FLAGS, "full"}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_recipes_are_right(block: Block) -> None:
    assert parse_recipe(block.text, str(block)).stages


def test_tasks_are_all_named() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text().split("The tasks of `evaluate` are")[1].split(", all of")[0]
    assert set(re.findall(r"`(\w+)`", text)) == set(TASKS)


# Links and tests


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if target.startswith("https://"):
                continue
            file, _, anchor = target.partition("#")
            place = (page.parent / file).resolve() if file else page
            if not place.exists() or (anchor and anchor not in anchors(place)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_reached_from_both_readmes() -> None:
    for readme in ("README.md", "README_zh.md"):
        linked = set(re.findall(r"\(docs/([\w-]+\.md)", (ROOT / readme).read_text(encoding="utf-8")))
        assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_both_readmes_show_the_same_code() -> None:
    def code(page: str) -> list[str]:
        return [re.sub(r" *#.*", "", b.text) for b in blocks(ROOT / page) if b.language in ("python", "sh")]

    assert code("README.md") == code("README_zh.md")


def test_tests_named_in_the_pages_exist_and_every_pitfall_has_its_line() -> None:
    text = (ROOT / "docs" / "pitfalls.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 36))
    for number, _, guards in rows:
        named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", guards)
        assert named or "with re" in guards, number
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{number}: {file}::{test}"

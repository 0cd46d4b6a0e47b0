"""The commands as a user starts them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli import main as cli
from posttrain.config.methods import METHODS
from posttrain.errors import DataError


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "posttrain.cli", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)], ids=lambda c: "".join(c) or "posttrain")
def test_every_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "Usage: posttrain" in page
    assert "Example" in page
    assert max(map(len, page.splitlines())) <= 110


def test_a_file_in_the_way_of_a_directory_is_an_error_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "out"
    taken.write_text("")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    for directory in (taken, taken / "deeper"):
        assert cli.main(["data", "convert", str(rows), "--output", str(directory / "x.jsonl"), "--to", "messages"]) == 2
        said = capsys.readouterr().err
        assert "a directory is needed there" in said
        assert str(taken) in said
        assert "Traceback" not in said


def test_help_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["dpo", "--help"])
    page = capsys.readouterr().out
    for name in METHODS["dpo"].fields.model_fields:
        assert f"--{name} " in page
    assert "[default 1e-06]" in page


def test_the_run_page_names_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["run", "--help"])
    assert f"Methods: {', '.join(METHODS)}." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", [["--help"], ["sft", "--help"], ["run", "--help"]])
def test_help_is_instant_and_light(words: list[str]) -> None:
    """Half a second, as processor time: the machine may be busy with something else. Best of three."""
    code = (
        "import sys\nfrom posttrain.cli.main import main\n"
        f"main({words!r})\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_an_error_is_one_message_and_code_two() -> None:
    done = run("sft", "--model", "m", "--train_dataset", "d", "--lerning_rate", "1")
    assert done.returncode == 2
    assert done.stderr == "posttrain: --lerning_rate: unknown field 'lerning_rate'; did you mean 'learning_rate'?\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stf"], "no command 'stf'; did you mean 'sft'?"),
        (["run", "demoo"], "did you mean 'demo'?"),
        (["run", "missing.yaml"], "no file 'missing.yaml'"),
        (["run", "--only", "x"], "which recipe?"),
        (["run", "demo", "--only"], "--only needs the name of a stage"),
        (["run", "demo", "--only", "sff"], "did you mean 'sft'?"),
        (["run", "demo", "stf.seed=1"], "did you mean 'sft'?"),
        (["run", "demo", "other.yaml"], "a second recipe"),
        (["run", "demo", "--onyl", "sft"], "unknown flag '--onyl'; did you mean '--only'?"),
        (["demo", "--sed", "1"], "did you mean '--seed'?"),
        (["demo", "--seed", "x"], "takes a whole number"),
        (["demo", "--seeds", "0"], "at least 1"),
        (["demo", "--seed"], "needs a value"),
        (["doctor", "--fix"], "takes no"),
    ],
)
def test_broken_commands(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert cli.main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_dispatch", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_any_error_of_the_project_is_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> int:
        raise DataError("chat.jsonl:3: no")

    monkeypatch.setattr(cli, "_dispatch", broken)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "posttrain: chat.jsonl:3: no\n"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("posttrain")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    page = capsys.readouterr().out
    for word in ("python", "torch", "transformers", "cores", "device"):
        assert word in page


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m posttrain.cli sft --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_sft_and_dpo_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model_dir("qwen2")
    Path("text.jsonl").write_text('{"prompt": "one", "completion": " two"}\n' * 4)
    Path("pairs.jsonl").write_text('{"prompt": "one", "chosen": " two", "rejected": " three"}\n' * 4)
    common = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "--disable_tqdm"]
    assert cli.main(["sft", "--model", model, "--train_dataset", "text.jsonl", "--output_dir", "a", *common]) == 0
    assert "model:   a/model" in capsys.readouterr().out
    words = ["dpo", "--model", "a/model", "--train_dataset", "pairs.jsonl", "--output_dir", "b", "--use_peft", *common]
    assert cli.main(words) == 0
    assert Path("b/model/model.safetensors").is_file()
    assert Path("b/metrics.jsonl").is_file()
    assert cli.main(["sft", "--model", model, "--train_dataset", "txt.jsonl", "--output_dir", "c"]) == 2
    assert "did you mean 'text.jsonl'" in capsys.readouterr().err

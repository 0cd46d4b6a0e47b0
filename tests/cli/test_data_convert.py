import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.data.loading import load_rows

ROWS = [{"question": f"{number} + 1?", "answer": f"{number + 1}"} for number in range(40)]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Forty questions, the fourth row broken."""
    file = tmp_path / "questions.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    lines[3] = lines[3][:-4]
    file.write_text("\n".join(lines))
    return file


def test_a_file_is_converted_and_what_happened_is_said(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "chat.jsonl"
    assert main(["data", "convert", str(questions), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "'question' is read as a user's message and 'answer' as the assistant's answer; written as messages" in said
    assert "questions.jsonl:4: is not valid JSON" in said
    assert f"{output}: 39 rows; rejected: {output}.rejects.jsonl" in said
    assert main(["data", "convert", str(questions), "--output", str(output)]) == 0
    assert "39 rows" in capsys.readouterr().out
    assert main(["data", "convert", str(questions), "--output", str(output), "--to", "alpaca"]) == 2
    assert "another to (None, now 'alpaca')" in capsys.readouterr().err


def test_strict_stops_at_the_broken_row(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", str(questions), "--output", str(tmp_path / "chat.jsonl"), "--strict"]) == 2
    assert "questions.jsonl:4: is not valid JSON" in capsys.readouterr().err
    assert not (tmp_path / "chat.jsonl").exists()


def test_several_inputs_and_standard_input_make_one_output(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("instruction,output\nSay A,A\n")
    output = tmp_path / "all.parquet"
    command = [sys.executable, "-m", "posttrain.cli", "data", "convert", str(tmp_path / "pairs.csv"), "-"]
    piped = subprocess.run([*command, "--output", str(output)], input=questions.read_bytes(), capture_output=True)
    assert piped.returncode == 0, piped.stderr
    rows = load_rows(output)
    assert len(rows) == 40
    assert rows[0]["messages"] == [{"role": "user", "content": "Say A"}, {"role": "assistant", "content": "A"}]
    assert json.loads(rows[4]["_provenance"]) == {"source": "-", "line": 5}


def test_provenance_can_be_left_out(questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    arguments = ["--to", "alpaca", "--output", str(output), "--no_provenance"]
    assert main(["data", "convert", str(questions), *arguments]) == 0
    rows = json.loads(output.read_text())
    assert rows[0] == {"instruction": "0 + 1?", "input": "", "output": "1"}
    assert len(rows) == 39


def test_an_input_behind_the_flags_is_told_where_it_belongs(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "convert", "--output", str(tmp_path / "out.jsonl"), str(questions)]) == 2
    assert "inputs stand together, before the flags" in capsys.readouterr().err


def test_nothing_converted_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": 1}\n{"messages": 2}\n')
    assert main(["data", "convert", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "no row could be converted" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    from posttrain.cli.data import COMMANDS

    assert main(["data"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)
    assert main(["data", "convrt"]) == 2
    assert "did you mean 'convert'?" in capsys.readouterr().err
    assert main(["data", "pairs", "make"]) == 2
    assert "`pairs correct` or `pairs sample`" in capsys.readouterr().err
    assert main(["data", "convert", "--help"]) == 0
    assert "messages, prompt-completion, text, alpaca" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "convert", "x.jsonl", "--output", "x.xml"]) == 2
    assert "must end in .jsonl or .json or .csv or .parquet" in capsys.readouterr().err


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_killed_is_gone_on_with(by: signal.Signals, tmp_path: Path) -> None:
    """The rows come from a pipe that stops in the middle, so that the process is killed where it waits for more."""
    rows = [json.dumps(row) + "\n" for row in ROWS * 50]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from posttrain.curation import rows\n"
        "import posttrain.curation.reading as reading\n"
        "plain = reading.read_file\n"
        "def slow(name):\n"
        "    for number, read in enumerate(plain(name)):\n"
        "        if number > 700 and sys.argv[1] == 'slow':\n"
        "            time.sleep(0.2)\n"
        "        yield read\n"
        "reading.read_file = slow\n"
        "from posttrain.cli.main import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    convert = ["data", "convert", str(tmp_path / "rows.jsonl"), "--output"]
    assert main([*convert, str(whole)]) == 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), "slow", *convert, str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    state = tmp_path / "out.jsonl.partial.json"
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text())["consumed"] > 700):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(by)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (130 if by == signal.SIGINT else -signal.SIGKILL)
    if by == signal.SIGINT:
        assert "rows decided. The same command goes on." in said
    assert not output.exists()
    consumed = json.loads(state.read_text())["consumed"]
    assert 700 < consumed < len(rows)
    again = subprocess.run([*command[:2], "fast", *command[3:]], capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert f"{consumed:,} rows are decided; going on" in again.stderr
    assert output.read_bytes() == whole.read_bytes()
    card, expected = (json.loads(Path(f"{path}.card.json").read_text()) for path in (output, whole))
    assert (card["steps"], card["counts"]) == (expected["steps"], expected["counts"])
    assert not list(tmp_path.glob("*partial*"))

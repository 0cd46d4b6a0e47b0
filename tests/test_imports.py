"""The architecture that docs/architecture.md draws, kept by reading every import."""

import subprocess
import sys
import tomllib
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_imports_go_to_lower_lines_only(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", cache_dir=None, no_cache=True) == 0


def test_every_package_stands_on_a_line():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = " ".join(contracts[0]["layers"])
    rooms = {p.parent.name for p in (ROOT / "posttrain").glob("*/__init__.py")}
    rooms |= {p.stem for p in (ROOT / "posttrain").glob("*.py") if p.stem != "__init__"}
    assert {room for room in rooms if f"posttrain.{room}" not in named} == set()


def test_import_posttrain_is_instant_and_reaches_no_torch():
    code = "import sys, posttrain, posttrain.config.dpo, posttrain.stats; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

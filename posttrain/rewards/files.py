"""Functions named in words: `path/to/file.py:function` and `package.module:function`."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.errors import RewardError, nearest
from posttrain.rewards.worker_process import load_module

LOADED: dict[str, str] = {}  # module name -> file; worker processes load the same files under the same names


def load_function(spec: str) -> Callable[..., Any]:
    """The function that `file.py:function` or `package.module:function` names.

    A file is loaded anew at each call, and its directory goes to the end of the import path. Raises RewardError for a
    file, module or function that is not there, and for a file that raises, naming its line.
    """
    place, _, function = spec.rpartition(":")
    if not place or not function:
        place, function = place or spec.rstrip(":"), ""
    is_file = place.endswith(".py") or os.sep in place
    if not function:
        defined = _defined_in(place) if is_file else []
        there = f" (it defines {', '.join(defined)})" if defined else ""
        raise RewardError(f"reward {spec!r} names no function; write {place}:{(defined or ['function'])[0]}{there}")
    module = _load_file(Path(place)) if is_file else _import(place, spec)
    found: Any = module
    for part in function.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            hint = nearest(function, names) or f" (it has {', '.join(names) or 'no function'})"
            raise RewardError(f"reward {spec!r}: {place} has no {function!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise RewardError(f"reward {spec!r} is {type(found).__name__} {found!r:.60}; it must be a function")
    named: Callable[..., Any] = found
    return named


def _load_file(path: Path) -> Any:
    if not path.is_file():
        around = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise RewardError(f"reward file {str(path)!r} is not there{nearest(path.name, around)}")
    full = str(path.resolve())
    name = f"posttrain_file_{path.stem}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    if (directory := os.path.dirname(full)) not in sys.path:
        sys.path.append(directory)
    try:
        module = load_module(name, full)
    except Exception as error:
        raise RewardError(
            f"reward file {str(path)!r} cannot be loaded: {_line(error, full)}{type(error).__name__}: {error}"
        ) from error
    LOADED[name] = full
    return module


def _line(error: BaseException, file: str) -> str:
    """Where in the file the error arose, as "line 3: ", or nothing where it did not arise there."""
    if isinstance(error, SyntaxError):
        return ""  # says it itself
    found, traceback = "", error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            found = f"line {traceback.tb_lineno}: "
        traceback = traceback.tb_next
    return found


def _import(name: str, spec: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise RewardError(f"reward {spec!r}: importing {name} failed: {error}") from error
        raise RewardError(
            f"reward {spec!r}: there is no module {error.name!r}; a file is named by its path, path/to/file.py:function"
        ) from None
    except Exception as error:
        raise RewardError(f"reward {spec!r}: importing {name} failed: {type(error).__name__}: {error}") from error


def _defined_in(path: str) -> list[str]:
    """The public functions at the top of a file, without running it."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]

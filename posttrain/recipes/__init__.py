"""Recipes: files of stages, the runner that carries them out, and the built-in ones."""

from __future__ import annotations

from pathlib import Path

BUILT_IN = Path(__file__).parent


def built_in_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.yaml"))}

"""Which fields are checked together: read from the source of the checks, so that it cannot be out of date."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator

from posttrain.config.base import Config


@functools.cache
def checked_together(config: type[Config]) -> dict[str, frozenset[str]]:
    """Each field's partners: fields that stand in the condition of one of its complaints, or it in theirs."""
    partners: dict[str, set[str]] = {}
    for group in _groups(config):
        for name in group:
            partners.setdefault(name, set()).update(group - {name})
    return {name: frozenset(others) for name, others in partners.items()}


def _groups(config: type[Config]) -> Iterator[frozenset[str]]:
    for kind in config.__mro__:
        if not issubclass(kind, Config) or kind is Config:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        except (OSError, SyntaxError):  # installed without its source
            continue
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for statement in function.body:
                    yield from _under(statement, frozenset(), config)


def _under(node: ast.AST, conditions: frozenset[str], config: type[Config]) -> Iterator[frozenset[str]]:
    """The groups of the complaints inside a statement, which is reached under conditions on these fields."""
    if isinstance(node, ast.If):
        inside = conditions | _fields_in(node.test, config)
        for statement in node.body:
            yield from _under(statement, inside, config)
        for statement in node.orelse:
            yield from _under(statement, inside, config)
        return
    if isinstance(node, ast.For):
        names = _fields_in(node.iter, config) if isinstance(node.target, ast.Name) else frozenset()
        for name in names or {None}:
            inside = conditions if name is None else conditions | {name}
            for statement in node.body:
                yield from _under(statement, inside, config)
        return
    for found in ast.walk(node):
        if isinstance(found, ast.Yield) and isinstance(found.value, ast.Tuple):
            first = found.value.elts[0]
            said = _fields_in(first, config) if isinstance(first, ast.Constant) else frozenset()
            if len(conditions | said) > 1:
                yield conditions | said


def _fields_in(node: ast.AST, config: type[Config]) -> frozenset[str]:
    """The fields that an expression reads: `self.name`, or the name as text."""
    read = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    written = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return frozenset((read | written) & set(config.model_fields))

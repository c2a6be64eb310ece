"""A digest of what Python values do, which shows whether two versions of a projection differ.

A function is described by its syntax tree, together with every value that it reads from its
module and from enclosing functions. Docstrings, comments, annotations, the layout of the text and
the names of local variables, parameters and module-level names are left out. The description does
not depend on the running version of Python.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""Code below this folder is described by its content, all other code by its name."""

# Fields of the syntax tree that do not affect what the code does.
IGNORED = frozenset({"ctx", "kind", "type_comment", "type_ignores", "annotation", "returns"})
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*DEFINITIONS, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LocalNames = dict[str, int]
"""The local names of a function, numbered in the order in which they appear."""
_QUOTES_COMMENTS_SPACES = re.compile(r"('(?:[^']|'')*')|(?:--[^\n]*|\s)+")


def meaning(*values: Any) -> str:
    """The SHA-256 of the description of the values, in hexadecimal.

    Raises `TypeError` for a value that cannot be described, such as an open file.
    """
    describer = _Describer()
    text = "\n".join(describer.describe(value) for value in values)
    return hashlib.sha256(text.encode()).hexdigest()


def sql_meaning(text: str) -> str:
    """SQL without comments, and with single spaces outside of quoted text."""
    return _QUOTES_COMMENTS_SPACES.sub(lambda match: match[1] or " ", text).strip()


class _Describer:
    """Describes values; functions and classes that were described before are given by number."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is reused

    def describe(self, value: Any) -> str:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            plain = _plain(value)
            return f"{type(plain).__name__}:{plain!r}"
        if isinstance(value, Mapping):
            pairs = (f"{self.describe(k)}={self.describe(v)}" for k, v in value.items())
            return f"map({','.join(pairs)})"
        if isinstance(value, (tuple, list)):
            return f"row({','.join(map(self.describe, value))})"
        if isinstance(value, (set, frozenset)):
            return f"set({','.join(sorted(map(self.describe, value)))})"
        if isinstance(value, re.Pattern):
            return f"pattern({value.pattern!r},{value.flags})"
        if isinstance(value, ModuleType):
            return f"module({value.__name__})"
        return self._describe_once(value)

    def _describe_once(self, value: Any) -> str:
        if id(value) in self._known:
            return f"known({self._known[id(value)]})"
        self._known[id(value)] = len(self._known)
        self._kept.append(value)
        return self._described(value)

    def _described(self, value: Any) -> str:
        if isinstance(value, functools.partial):
            return f"partial({self.describe((value.func, value.args, value.keywords))})"
        if callable(value) and hasattr(value, "__wrapped__"):
            return self.describe(value.__wrapped__)  # a cache changes no result
        if isinstance(value, FunctionType) and _is_ours(value.__module__):
            return self._function(value)
        if isinstance(value, type) and _is_ours(value.__module__):
            return self._class(value)
        if isinstance(value, enum.Enum):
            return f"member({self.describe(value.value)})"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
            return f"object({self.describe(fields)})"
        if hasattr(value, "__qualname__") and getattr(value, "__module__", None):
            return f"named({value.__module__}.{value.__qualname__})"
        if type(value).__module__ in sys.stdlib_module_names:
            return f"named({type(value).__name__} {value})"
        raise TypeError(f"a projection uses {value!r}, of which no description can be made")

    def _function(self, function: FunctionType) -> str:
        node = _function_node(function)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        enclosed = {name: cell.cell_contents for name, cell in cells}
        defaults = (function.__defaults__, function.__kwdefaults__)
        tree, taken = _Canonical(function.__globals__, enclosed).tree(node)
        return f"function({tree};{self.describe(defaults)};{self.describe(taken)})"

    def _class(self, cls: type) -> str:
        node = _class_node(cls)
        tree, taken = _Canonical(vars(sys.modules[cls.__module__]), {}).tree(node)
        return f"class({tree};{self.describe(taken)})"


class _Canonical:
    """Writes one syntax tree without the ignored parts, and collects the values that it uses."""

    def __init__(self, module: Mapping[str, Any], enclosed: Mapping[str, Any]) -> None:
        self._module = module
        self._enclosed = enclosed
        self._numbers: dict[str, int] = {}
        self._taken: list[Any] = []

    def tree(self, node: ast.AST) -> tuple[str, list[Any]]:
        """The text of the tree, and the values of its outer names in order of appearance."""
        if isinstance(node, ast.ClassDef):
            return self._class(node), self._taken
        return self._scoped(node, []), self._taken

    def _class(self, node: ast.ClassDef) -> str:
        parts = [*node.bases, *node.keywords, *node.decorator_list, *_without_docstring(node.body)]
        return f"class({','.join(self._member(each) for each in parts)})"

    def _member(self, node: ast.AST) -> str:
        name = node.name if isinstance(node, (*DEFINITIONS, ast.ClassDef)) else ""
        return f"{name}:{self._node(node, [])}"

    def _scoped(self, node: ast.AST, outer: list[LocalNames]) -> str:
        names = list(dict.fromkeys(_bound_in(node)))
        number = sum(map(len, outer))
        scopes = [*outer, {name: number + place for place, name in enumerate(names)}]
        # The defaults and decorators of a function have been evaluated; those of a nested function
        # are part of what the outer function does.
        skipped = () if outer else ("decorator_list", "defaults", "kw_defaults")
        return self._fields(node, scopes, skipped)

    def _node(self, node: Any, scopes: list[LocalNames]) -> str:
        if isinstance(node, list):
            return f"[{','.join(self._node(each, scopes) for each in node)}]"
        if isinstance(node, ast.Name):
            is_local = any(node.id in scope for scope in scopes)
            if isinstance(node.ctx, ast.Store) and not is_local:
                return f"attribute({node.id})"
            return self._name(node.id, scopes)
        if isinstance(node, ast.arg):
            return f"arg({self._name(node.arg, scopes)})"
        if isinstance(node, ast.Attribute) and (value := self._of_module(node, scopes)):
            return value
        if isinstance(node, ast.ClassDef):
            return self._class(node)
        if isinstance(node, (*SCOPES, *COMPREHENSIONS)):
            return self._scoped(node, scopes or [{}])
        if isinstance(node, ast.AST):
            return self._fields(node, scopes)
        return repr(node)

    def _fields(
        self, node: ast.AST, scopes: list[LocalNames], skipped: tuple[str, ...] = ()
    ) -> str:
        written = []
        for name, value in ast.iter_fields(node):
            if name in IGNORED or name in skipped or value is None or value == []:
                continue
            if name == "name" and isinstance(node, (*DEFINITIONS, ast.ExceptHandler)):
                is_local = any(value in scope for scope in scopes)
                text = self._name(value, scopes) if is_local else ""
            elif name == "body" and isinstance(node, DEFINITIONS):
                text = self._node(_without_docstring(value), scopes)
            else:
                text = self._node(value, scopes)
            written.append(f"{name}={text}")
        return f"{type(node).__name__}({','.join(written)})"

    def _name(self, name: str, scopes: list[LocalNames]) -> str:
        for scope in reversed(scopes):
            if name in scope:
                return f"local({scope[name]})"
        if name in self._enclosed:
            return self._take(name, self._enclosed[name])
        if name in self._module:
            return self._take(name, self._module[name])
        if hasattr(builtins, name):
            return f"builtin({name})"
        return f"attribute({name})"  # of a class body

    def _of_module(self, node: ast.Attribute, scopes: list[LocalNames]) -> str | None:
        """The value of `module.name` if the module lies below ROOT."""
        if not isinstance(node.value, ast.Name) or any(node.value.id in each for each in scopes):
            return None
        module = self._module.get(node.value.id)
        if not isinstance(module, ModuleType) or not _is_ours(module.__name__):
            return None
        return self._take(f"{node.value.id}.{node.attr}", getattr(module, node.attr))

    def _take(self, name: str, value: Any) -> str:
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers)
            self._taken.append(value)
        return f"taken({self._numbers[name]})"


def _bound_in(scope: ast.AST) -> Iterator[str]:
    """The names that a function, lambda or comprehension binds, in the order of the text."""
    elsewhere = {
        name
        for node in ast.walk(scope)
        if isinstance(node, (ast.Global, ast.Nonlocal))
        for name in node.names
    }
    for node in _own_nodes(scope):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            if node.id not in elsewhere:
                yield node.id
        elif isinstance(node, (*DEFINITIONS, ast.ClassDef)) or (
            isinstance(node, ast.ExceptHandler) and node.name
        ):
            yield str(node.name)


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes below, except those inside another function, comprehension or class."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (*SCOPES, *COMPREHENSIONS, ast.ClassDef)):
            yield from _own_nodes(child)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements without string literals: docstrings, and the text after a constant."""
    return [
        each
        for each in body
        if not (
            isinstance(each, ast.Expr)
            and isinstance(each.value, ast.Constant)
            and isinstance(each.value.value, str)
        )
    ]


def _plain(value: Any) -> Any:
    """A value of a subclass, such as a member of a `StrEnum`, as the built-in value it equals."""
    plain = (bool, int, float, complex, str, bytes)
    base: Any = next((each for each in plain if isinstance(value, each)), None)
    return base(value) if base else value


def _is_ours(module: str | None) -> bool:
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    path = Path(file).resolve() if file else None
    return path is not None and path.is_relative_to(ROOT) and "site-packages" not in path.parts


@functools.cache
def _syntax(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text("utf-8"))


def _function_node(function: FunctionType) -> ast.AST:
    code = function.__code__
    found = [
        node
        for node in ast.walk(_syntax(code.co_filename))
        if isinstance(node, SCOPES) and _first_line(node) == code.co_firstlineno
    ]
    if len(found) > 1:  # lambdas of one line are distinguished by their columns
        found = [node for node in found if isinstance(node, ast.Lambda) and _holds(node, code)]
    if not found:
        raise TypeError(f"no source was found of {function.__qualname__}")
    return found[-1]


def _first_line(node: Any) -> int:
    decorators = getattr(node, "decorator_list", [])
    return int(decorators[0].lineno if decorators else node.lineno)


def _holds(node: ast.Lambda, code: CodeType) -> bool:
    body = node.body
    start, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    places = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line and end_line and column is not None and end_column is not None and end_column
    ]
    return all(start <= first and last <= end for first, last in places)


def _class_node(cls: type) -> ast.ClassDef:
    file = inspect.getsourcefile(cls)
    node: Any = _syntax(str(file))
    for part in cls.__qualname__.split("."):
        node = next(
            each for each in ast.walk(node) if isinstance(each, ast.ClassDef) and each.name == part
        )
    assert isinstance(node, ast.ClassDef)
    return node

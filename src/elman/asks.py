"""Which classes the code of a class asks for: by isinstance, by type, in a match statement.

It is read, not run: `asked_for` looks at the source of the functions of a class and of those that
they call by name. What has no source at hand, or asks in a roundabout way, is not seen.
"""

import ast
import dis
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["asked_for"]

_ASKING = {"isinstance", "issubclass", "type", "__class__"}


def asked_for(kind: type) -> Iterator[tuple[str, type, bool]]:
    """Find which classes a class asks for, in its own code and that of its bases.

    Python's and PyTorch's classes are left out, and so are the functions of other packages.

    Yields:
        The name of the function that asks, the class, and whether nothing but exactly this class
        counts, so that a subclass is none.
    """
    for base in kind.__mro__:
        package = _package(base)
        if package == "torch" or package in sys.stdlib_module_names - {"__main__"}:
            continue
        for member in vars(base).values():
            function = _function(member)
            if function is not None:
                yield from _questions(function)
                for helper in _helpers(function):
                    if _package(helper) == package:
                        yield from _questions(helper)


def _package(value: type | FunctionType) -> str:
    return str(value.__module__).partition(".")[0]


def _function(member: Any) -> FunctionType | None:
    if _is(member, property):
        member = member.fget
    elif _is(member, cached_property):
        member = member.func
    elif _is(member, staticmethod, classmethod):
        member = member.__func__
    inner: Any = inspect.unwrap(member) if _is(member, FunctionType) else None
    return inner if _is(inner, FunctionType) else None


# The functions that one may call by name, or by a name in a module.
def _helpers(function: FunctionType) -> Iterator[FunctionType]:
    names, scope = _names(function.__code__), _scope(function)
    known: list[Any] = [scope.get(name) for name in names]
    modules = [value for value in known if _is(value, ModuleType)]
    known += [vars(module).get(name) for module in modules for name in names]
    yield from (value for value in known if _is(value, FunctionType))


# As isinstance, but that objects which stand for others are not made to find these.
def _is(value: Any, *kinds: type) -> bool:
    return issubclass(type(value), kinds)


# The names in some code, and in that of the functions defined in it.
def _names(code: CodeType) -> set[str]:
    inner = (_names(const) for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names, *code.co_freevars}.union(*inner)


# What the names in a function stand for, those of its own variables aside.
def _scope(function: FunctionType) -> dict[str, Any]:
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    try:
        outer = {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
    except ValueError:  # one is not assigned yet
        outer = {}
    return function.__globals__ | outer


def _questions(function: FunctionType) -> Iterator[tuple[str, type, bool]]:
    code = function.__code__
    if not (
        _names(code) & _ASKING or "MATCH_CLASS" in (step.opname for step in dis.Bytecode(code))
    ):
        return
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, ValueError, SyntaxError, RecursionError):
        return
    scope = _scope(function)
    for node in ast.walk(tree):
        asked: list[ast.expr] = []
        is_exact = False
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            is_exact = any(_is_type(side) for side in sides)
            asked = sides if is_exact else []
        for expression in asked:
            for value in _values(expression, scope):
                yield function.__qualname__, value, is_exact


# Whether an expression is type(x) or x.__class__.
def _is_type(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "type"
    return isinstance(node, ast.Attribute) and node.attr == "__class__"


# The classes that an expression names, itself or as part of a tuple.
def _values(expression: ast.expr, scope: dict[str, Any]) -> Iterator[type]:
    for node in ast.walk(expression):
        value = _value(node, scope)
        several = type(value) in (tuple, list, set, frozenset)
        yield from (v for v in (value if several else (value,)) if _is(v, type))


# What a name stands for, where no code has to run to know.
def _value(node: ast.AST, scope: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, scope)
        return vars(owner).get(node.attr) if _is(owner, ModuleType, type) else None
    return None

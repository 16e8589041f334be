"""What checks annotations while tests run: beartype, except where public functions answer for themselves."""

import ast
import functools as ft
import pathlib
from collections.abc import Callable
from typing import Any

import beartype

FACE = pathlib.Path(__file__).parents[1] / "ufm" / "__init__.py"
# modules that the face doesn't import from, but README uses
OFFERED = ("ufm.plot", "ufm.theory.registry", "ufm.metrics.measurement", "ufm._core.descent")


def typechecked(function: Callable) -> Callable:
    """Check `function`'s annotations; of a public one only what it returns.

    Public annotations say what is meant to be passed. Whatever else comes is answered by a ValueError that the function
    raises itself, by `ufm._core.checks`: a type checker that came before it would hide it from the tests.
    """
    if public(function.__module__, function.__qualname__):
        kept = {name: kind for name, kind in function.__annotations__.items() if name == "return"}
        function.__annotations__ = dict.fromkeys(function.__annotations__, Any) | kept
    return beartype.beartype(function)


def public(module: str, qualname: str) -> bool:
    """Whether people call it: what `ufm` offers, its modules' functions, and methods without an underscore."""
    first, *rest = qualname.split(".")
    named = [name for name in (first, *rest) if not (name.startswith("__") and name.endswith("__"))]
    if any(name.startswith(("_", "<")) for name in named):
        return False
    return (module, first) in offered() or module in OFFERED or (module, "*") in offered()


@ft.cache
def offered() -> frozenset[tuple[str, str]]:
    """Modules and names that the face imports; a module itself with all of its names, "*"."""
    imports = (node for node in ast.parse(FACE.read_text()).body if isinstance(node, ast.ImportFrom))
    named = [(str(node.module), alias.name) for node in imports for alias in node.names]
    return frozenset((f"ufm.{name}", "*") if module == "ufm" else (module, name) for module, name in named)

"""What checks annotations while tests run: beartype, except where public functions answer for themselves."""

import ast
import functools as ft
import inspect
import pathlib
from collections.abc import Callable
from typing import Any, get_args

import beartype
import jaxtyping

whole_jaxtyped = jaxtyping.jaxtyped
ONE_CALL = whole_jaxtyped("context")  # within which a name of an axis is of one size
FACE = pathlib.Path(__file__).parents[1] / "ufm" / "__init__.py"
# modules that the face doesn't import from, but README uses
OFFERED = ("ufm.plot", "ufm.theory.registry", "ufm.metrics.measurement", "ufm._core.descent")


def typechecked(function: Callable) -> Callable:
    """Check `function`'s annotations, if it has any; of a public one only what it returns.

    Public annotations say what is meant to be passed. Whatever else comes is answered by a ValueError that the function
    raises itself, by `ufm._core.checks`: a type checker that came before it would hide it from the tests.
    """
    kinds = said = function.__annotations__
    if public(function.__module__, function.__qualname__):
        kinds = {name: kind for name, kind in said.items() if name == "return"}
    function.__annotations__ = kinds
    checked = beartype.beartype(function)  # itself, where there is nothing to check
    function.__annotations__ = said
    if not any(map(of_arrays, kinds.values())):
        return checked

    @ft.wraps(function)
    def with_own_axes(*args, **kwargs):
        with ONE_CALL:
            return checked(*args, **kwargs)

    return with_own_axes


def of_arrays(kind: Any) -> bool:
    """Whether an annotation names axes, or may do so."""
    named = isinstance(kind, str) or (inspect.isclass(kind) and issubclass(kind, jaxtyping.AbstractArray))
    return named or any(map(of_arrays, get_args(kind)))


def jaxtyped(function: Any = None, **options: Any) -> Any:
    """`jaxtyping.jaxtyped`, of functions lighter: it binds the arguments of any call, and checks them twice.

    That takes many times as long as what most functions do to small arrays, and thousands of them are called a second.
    """
    if function is None:
        return ft.partial(jaxtyped, **options)
    return typechecked(function) if inspect.isfunction(function) else whole_jaxtyped(function, **options)


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

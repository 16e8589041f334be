"""Frozen dataclasses that JAX sees through: static structure on one side, traced numbers on the other."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

from ufm._core.checks import flag
from ufm._core.repr import call, fields_of

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and a pytree whose leaves are the fields not marked `static()`.

    JAX rebuilds an instance without calling `__init__`, so that validation sees what people pass and
    never a tracer.
    """
    if "__repr__" not in vars(cls):
        setattr(cls, "__repr__", _short)  # noqa: B010 (a type checker would refuse the assignment)
    frozen = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(frozen)  # pyright: ignore[reportArgumentType]
    statics = tuple(f.name for f in fields if f.metadata.get("static"))
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))

    def flatten(node):
        return tuple(getattr(node, n) for n in leaves), tuple(getattr(node, n) for n in statics)

    def flatten_with_keys(node):
        children, structure = flatten(node)
        return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), children, strict=True)), structure

    def unflatten(structure, children):
        node = object.__new__(frozen)
        node.__dict__.update(zip(statics, structure, strict=True))
        node.__dict__.update(zip(leaves, children, strict=True))
        return node

    jax.tree_util.register_pytree_with_keys(frozen, flatten_with_keys, unflatten, flatten)
    return frozen


def _short(node: Any) -> str:
    """An instance as one would write it, with arrays by type and shape."""
    return call(type(node).__name__, fields_of(node))


def check_flags(name: str, node: Any, flags: dict[str, Any]) -> None:
    """Refuse facts by name that are no truth values, or that are leaves of `node`, so that JAX would trace them.

    Raises:
        ValueError: naming the fact, with what is needed.
    """
    for fact, value in flags.items():
        flag(f"{name}.{fact}", value)
    check_static(name, node, flags)


def check_static(name: str, node: Any, facts: Iterable[str]) -> None:
    """Refuse facts by name that are leaves of `node`.

    Raises:
        ValueError: naming the fact, with what is needed.
    """
    without_leaves = jax.tree.map(lambda _: None, node)
    for fact in facts:
        if getattr(node, fact, None) is not None and getattr(without_leaves, fact, node) is None:
            needed = "a class attribute, or a field that JAX is told to be static, is needed"
            raise ValueError(f"{name}.{fact} is a leaf, which JAX traces: {needed}")


def static(**options: Any) -> Any:
    """A field that is part of the structure: another value means another compilation."""
    return dataclasses.field(**options, metadata={"static": True})


def set_field(node: Any, name: str, value: Any) -> None:
    """Normalise a field of a frozen instance; for `__post_init__` only."""
    object.__setattr__(node, name, value)

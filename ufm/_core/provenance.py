"""What a labelled table says of itself: what it is about, who made it, and what its numbers mean."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from ufm._core.archive import absent, encode


def versions() -> dict[str, str]:
    """What numbers depend on besides the problem."""
    packages = {name: version(name) for name in ("ufm", "jax", "jaxlib", "optax", "numpy")}
    return {**packages, "backend": jax.default_backend()}


def command() -> str:
    """The command being run."""
    return shlex.join(sys.argv)


def listed(packages: Mapping[str, str]) -> str:
    """Versions on a line."""
    return " ".join(f"{name} {number}" for name, number in packages.items())


def as_json(value: Any, other: Callable[[Any], Any] = absent) -> Any:
    """`value` as JSON without arrays beside it; `other` as `archive.encode` takes it."""
    arrays: dict[str, np.ndarray] = {}
    return _inlined(encode(value, arrays, other), arrays)


def flags(words: Sequence[str], first: int = 0) -> dict[str, Any]:
    """What whole numbers from `first` on mean, as the conventions for climate and forecast data (CF) have it."""
    return {"flag_values": list(range(first, first + len(words))), "flag_meanings": " ".join(words)}


def _inlined(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_inlined(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if set(tree) == {"array"}:
        return {"values": arrays[tree["array"]].tolist()}
    return {name: _inlined(item, arrays) for name, item in tree.items()}

"""Values as short texts: numbers as they are, arrays by type and shape, long sequences by their ends."""

import dataclasses
from typing import Any

import numpy as np

from ufm._core.checks import shown

WRITTEN_OUT = 4  # entries of a sequence


def brief(value: Any) -> str:
    """A value on part of a line, whatever its size."""
    if hasattr(value, "dtype") and np.ndim(value):
        written = isinstance(value, np.ndarray) and value.ndim == 1 and value.size <= WRITTEN_OUT
        return str(value.tolist()) if written else f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if type(value) in (tuple, list) and len(value) > WRITTEN_OUT:
        first = ", ".join(map(brief, value[: WRITTEN_OUT - 1]))
        return f"({first}, …, {brief(value[-1])}; {len(value)} in all)"
    if type(value) is tuple and any(hasattr(each, "dtype") and np.ndim(each) for each in value):
        return f"({', '.join(map(brief, value))}{',' * (len(value) == 1)})"
    if isinstance(value, np.generic):
        return repr(value.item())
    return getattr(value, "__name__", None) or shown(value)


def call(name: str, words: dict[str, Any]) -> str:
    """Values by name as one would write the call that makes them."""
    return f"{name}({', '.join(f'{key}={brief(value)}' for key, value in words.items())})"


def fields_of(node: Any) -> dict[str, Any]:
    """Of a dataclass, what its constructor takes."""
    return {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}


def unusual(node: Any, always: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of a dataclass, what its constructor takes and isn't as by default; and what is `always` to be seen."""
    usual = {
        f.name: f.default_factory() if callable(f.default_factory) else f.default for f in dataclasses.fields(node)
    }
    return {
        name: value
        for name, value in fields_of(node).items()
        if name in always or usual[name] is dataclasses.MISSING or brief(value) != brief(usual[name])
    }

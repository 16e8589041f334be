"""Results on disk without pickle: arrays in an npz file, everything else as JSON inside it."""

import dataclasses
import enum
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T", bound=type)
_CLASSES: dict[str, type] = {}


def storable(cls: T) -> T:
    """Let instances of `cls` (a dataclass, a NamedTuple or an enum) be saved and loaded by name."""
    assert cls.__name__ not in _CLASSES, f"two storable classes are called {cls.__name__}"
    _CLASSES[cls.__name__] = cls
    return cls


class Absent:
    """Stands for a user's own loss or class, which a file can name but not hold."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *_: Any) -> Any:
        """Refuse to be used.

        Raises:
            ValueError: always; rebuild the problem with the loss of that name.
        """
        raise ValueError(f"loss {self.name!r} was not saved with the file: rebuild the problem with that loss")


def save(path: Any, value: Any) -> None:
    """Write `value` to exactly `path`, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(encode(value, arrays))
    target = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent or ".", prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, __tree__=np.asarray(tree), **arrays)  # pyright: ignore[reportArgumentType]
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: Any) -> Any:
    """What `run.save(path)` or `best.save(path)` wrote.

    Raises:
        ValueError: where the file is not one of ours.
    """
    with np.load(path, allow_pickle=False) as file:
        if "__tree__" not in file:
            raise ValueError(f"path = {os.fspath(path)!r}: a file written by save is needed")
        return decode(json.loads(str(file["__tree__"])), file)


def _absent(value: Any) -> Any:
    return {"class": getattr(value, "__name__", type(value).__name__), "absent": True}


def encode(value: Any, arrays: dict[str, np.ndarray], other: Callable[[Any], Any] = _absent) -> Any:
    """`value` as JSON; arrays are put into `arrays` and named, and what is neither is as `other` says."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"{value!r}: arrays of objects are not stored")
        name = f"array{len(arrays)}"
        arrays[name] = array
        return {"array": name}
    if type(value) in (list, tuple, range):
        return {"items": [encode(item, arrays, other) for item in value]}
    if type(value) is dict:
        return {"table": {key: encode(item, arrays, other) for key, item in value.items()}}
    if _CLASSES.get(type(value).__name__) is not type(value):  # a user's own may have the name of one of ours
        return other(value)
    if isinstance(value, enum.Enum):
        return {"class": type(value).__name__, "member": value.name}
    names = getattr(value, "_fields", None) or [f.name for f in dataclasses.fields(value) if f.init]
    fields = {name: encode(getattr(value, name), arrays, other) for name in names}
    return {"class": type(value).__name__, "fields": fields}


def decode(tree: Any, arrays: Any) -> Any:
    """The value that `encode` described."""
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        array = arrays[tree["array"]]
        return array if array.ndim else array[()]
    if "items" in tree:
        return tuple(decode(item, arrays) for item in tree["items"])
    if "table" in tree:
        return {key: decode(item, arrays) for key, item in tree["table"].items()}
    known = _CLASSES.get(tree["class"])
    if known is None or tree.get("absent"):
        return Absent(tree["class"])
    if "member" in tree:
        return known[tree["member"]]  # pyright: ignore[reportIndexIssue]
    return known(**{name: decode(item, arrays) for name, item in tree["fields"].items()})

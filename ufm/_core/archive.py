"""Results on disk without pickle: arrays in an npz file, everything else as JSON inside it."""

import dataclasses
import enum
import errno
import json
import os
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ufm._core import checks

T = TypeVar("T", bound=type)
_CLASSES: dict[str, Any] = {}


def storable(cls: T) -> T:
    """Let instances of `cls` (a dataclass, a NamedTuple or an enum) be saved and loaded by name."""
    assert cls.__name__ not in _CLASSES, f"two storable classes are called {cls.__name__}"
    _CLASSES[cls.__name__] = cls
    return cls


def formerly(name: str, stands_in: Any) -> None:
    """Read what earlier versions saved as an instance of the class `name` by another class, or function of its fields.

    A class may have a class method `_of_file` of a file's fields, where those of earlier versions differ, and a method
    `_to_file` that gives them.
    """
    assert name not in _CLASSES, f"a storable class is called {name}"
    _CLASSES[name] = stands_in


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
    """Write `value` to exactly `path`, whole or not at all.

    Raises:
        ValueError: where `path` is no path.
        OSError: where it cannot be written, naming it.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(encode(value, arrays))
    target = checks.path("path", path)
    try:
        _replace(target, {"__tree__": np.asarray(tree), **arrays})
    except OSError as error:
        raise type(error)(error.errno, f"path = {str(target)!r}: {error.strerror or error}") from error


def _replace(target: Any, arrays: dict[str, np.ndarray]) -> None:
    """A file written beside the target, with the rights that any new file has, and then put in its place."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.ufm-partial")
    try:
        with partial.open("xb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Any:
    """What `run.save(path)` or `best.save(path)` wrote.

    Raises:
        ValueError: where the file is not one of ours, or damaged; every byte of an array is checked.
        OSError: where it is not there or cannot be read, naming it.
    """
    file = checks.path("path", path)
    if not file.is_file():
        reason = "a folder" if file.is_dir() else "no such file"
        number = errno.EISDIR if file.is_dir() else errno.ENOENT
        raise OSError(number, f"path = {str(file)!r}: {reason}; a file written by save is needed")
    with file.open("rb") as stream:
        try:
            return _read(stream)
        except Exception as error:  # of NumPy, zipfile and json there are a dozen kinds
            reason = f"{type(error).__name__}: {checks.shown(str(error))}"
            raise ValueError(f"path = {str(file)!r}: a whole file written by save is needed ({reason})") from error


def _read(stream: Any) -> Any:
    """The value in an archive, all of whose checksums hold."""
    with np.load(stream, allow_pickle=False) as arrays:
        damaged = arrays.zip.testzip()  # reading an array may end before its checksum
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        return decode(json.loads(str(arrays["__tree__"])), arrays)


def absent(value: Any) -> Any:
    """What stands for a value that a file can name but not hold."""
    return {"class": getattr(value, "__name__", type(value).__name__), "absent": True}


def encode(value: Any, arrays: dict[str, np.ndarray], other: Callable[[Any], Any] = absent) -> Any:
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
    told = getattr(type(value), "_to_file", _fields_of)(value)
    fields = {name: encode(field, arrays, other) for name, field in told.items()}
    return {"class": type(value).__name__, "fields": fields}


def _fields_of(value: Any) -> dict[str, Any]:
    """What an instance of a storable class is made of, by name."""
    names = getattr(value, "_fields", None) or [f.name for f in dataclasses.fields(value) if f.init]
    return {name: getattr(value, name) for name in names}


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
        return known[tree["member"]]
    made = getattr(known, "_of_file", known)
    return made(**{name: decode(item, arrays) for name, item in tree["fields"].items()})

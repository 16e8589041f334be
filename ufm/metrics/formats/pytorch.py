"""A .pt or .pth file of tensors, in dictionaries or alone, mapped into memory: what is no tensor is never built."""

import contextlib
import functools as ft
import importlib
import pathlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from ufm.metrics.formats.stored import Openers, sliced


def read(file: pathlib.Path, stack: contextlib.ExitStack) -> Openers:
    """Its tensors, of dictionaries in one another by name.name; one that is alone under the name ""."""
    load = importlib.import_module("torch").load
    try:
        content = load(file, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:  # torch would advise to unpickle it
        raise ValueError("it holds more than tensors, numbers and dictionaries") from error
    return {name: ft.partial(sliced, tensor) for name, tensor in _tensors("", content)}


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "detach"):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(f"{name}.{key}".removeprefix("."), each)

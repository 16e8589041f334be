"""An HDF5 file, whose datasets are read a slice at a time."""

import contextlib
import functools as ft
import importlib
import pathlib
from typing import Any

from ufm.metrics.formats.stored import Openers, sliced


def read(file: pathlib.Path, stack: contextlib.ExitStack) -> Openers:
    """Its datasets; one in a group is called group/name."""
    h5py = importlib.import_module("h5py")
    found: Openers = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[name] = ft.partial(sliced, item, chunk=item.chunks[0] if item.chunks else 1)

    stack.enter_context(h5py.File(file, "r")).visititems(visit)
    return found

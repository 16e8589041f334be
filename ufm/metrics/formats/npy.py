"""A .npy file: one array without a name, mapped into memory; and the headers of such files."""

import contextlib
import functools as ft
import pathlib
from typing import Any

import numpy as np

from ufm.metrics.formats.stored import Openers, sliced

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(file: pathlib.Path, stack: contextlib.ExitStack) -> Openers:
    """The array, under the name ""."""
    with file.open("rb") as stream:
        check_plain(header(stream)[2])
    return {"": ft.partial(sliced, np.lib.format.open_memmap(file, mode="r"))}


def header(stream: Any) -> Any:
    """Shape, whether in Fortran's order, and type; the stream is then where the numbers begin."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of .npy, which is not one of plain numbers")
    return _HEADERS[version](stream)


def check_plain(dtype: np.dtype) -> None:
    """Refuse arrays of what only pickle reads, and of bytes without a type."""
    if dtype.hasobject:
        raise ValueError("an array of objects, which only pickle reads: save numbers")
    if dtype.kind == "V":
        raise ValueError(f"an array of type {dtype}, as NumPy writes bfloat16: save float32")

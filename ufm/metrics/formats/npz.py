"""A .npz file: a zip of .npy files, compressed or not, whose rows are read as the archive gives them out."""

import contextlib
import functools as ft
import math
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ufm.metrics.formats.npy import check_plain, header
from ufm.metrics.formats.stored import Openers, Stored, sliced

_ENDING = ".npy"


def read(file: pathlib.Path, stack: contextlib.ExitStack) -> Openers:
    """Its arrays; those in Fortran's order are read whole."""
    archive = stack.enter_context(zipfile.ZipFile(file))
    names = [name for name in archive.namelist() if name.endswith(_ENDING)]
    return {name.removesuffix(_ENDING): ft.partial(_member, archive, name) for name in names}


def _member(archive: zipfile.ZipFile, name: str) -> Stored:
    with archive.open(name) as stream:
        shape, in_columns, dtype = header(stream)

    def whole() -> np.ndarray:
        check_plain(dtype)
        with archive.open(name) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            _end(stream)
            return array

    def blocks(rows: int) -> Iterator[np.ndarray]:
        check_plain(dtype)
        with archive.open(name) as stream:
            header(stream)
            for first in range(0, shape[0], rows):
                yield _taken(stream, dtype, (min(rows, shape[0] - first), *shape[1:]))
            _end(stream)

    def slices(rows: int) -> Iterator[np.ndarray]:
        return sliced(whole()).blocks(rows)

    return Stored(shape, whole, slices if in_columns else blocks)


def _taken(stream: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The next numbers of a stream."""
    size = math.prod(shape) * dtype.itemsize
    content = stream.read(size)
    if len(content) < size:
        raise ValueError("it ends early")
    return np.frombuffer(content, dtype).reshape(shape)


def _end(stream: Any) -> None:
    """Read on to the end, where the archive's checksum is compared."""
    if stream.read(1):
        raise ValueError("it is longer than its header says")

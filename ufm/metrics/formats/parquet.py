"""A .parquet file, read a batch of rows at a time.

A column of numbers is a vector, and one of lists of equal length (of any kind of Arrow's, or a tensor of one axis) a
matrix, as `pandas.DataFrame({"H": list(H), "labels": labels})` and `datasets` write it. Columns of one name and all
numbers from 0 or from 1 (H0, H_0, H.0, H[0] or only 0, 1, …) are one matrix of that name; of no name, or called
feature, they are features.
"""

import contextlib
import functools as ft
import importlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ufm.metrics.formats.stored import Openers, Stored

_NUMBERED = re.compile(r"(.*?)[ _.\[-]?(\d+)\]?")
_CALLED = {"": "features", "feature": "features"}


def read(file: pathlib.Path, stack: contextlib.ExitStack) -> Openers:
    """Its columns, and matrices of numbered columns in place of these."""
    parquet = importlib.import_module("pyarrow.parquet")
    table = stack.enter_context(parquet.ParquetFile(file, memory_map=True))
    matrices = _matrices(table.schema_arrow.names)
    of_matrices = {column for columns in matrices.values() for column in columns}
    vectors = {name: [name] for name in table.schema_arrow.names if name not in of_matrices}
    return {
        name: ft.partial(_stored, table, columns, name in matrices) for name, columns in (matrices | vectors).items()
    }


def _matrices(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns, in their order, of each name that has all numbers from the first."""
    numbered: dict[str, dict[int, str]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            numbered.setdefault(_CALLED.get(found[1], found[1]), {})[int(found[2])] = name
    return {
        name: [columns[j] for j in sorted(columns)]
        for name, columns in numbered.items()
        if name not in names
        and len(columns) > 1
        and max(columns) - min(columns) == len(columns) - 1
        and min(columns) < 2
    }


def _stored(table: Any, columns: list[str], numbered: bool) -> Stored:
    def blocks(rows: int) -> Iterator[np.ndarray]:
        for batch in table.iter_batches(batch_size=rows, columns=columns):
            found = {name: _numbers(batch.column(name)) for name in columns}
            yield np.stack([found[name] for name in columns], axis=1) if numbered else found[columns[0]]

    def whole() -> np.ndarray:
        return np.concatenate(list(blocks(max(1, table.metadata.num_rows))))

    row = next(blocks(1), np.zeros(0)).shape[1:]
    return Stored((table.metadata.num_rows, *row), whole, blocks)


def _numbers(column: Any) -> np.ndarray:
    """A column of numbers (n,), or of lists of them (n, d)."""
    kinds = importlib.import_module("pyarrow.types")
    column = getattr(column, "storage", column)  # what an extension, such as a tensor, stands in
    column = column.dictionary_decode() if kinds.is_dictionary(column.type) else column
    lists = kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type)
    flat = column.flatten() if lists else column
    if column.null_count or flat.null_count:
        raise ValueError("values are missing in it")
    numbers = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), _length(column)) if lists else numbers


def _length(lists: Any) -> int:
    """Of lists that all have the same."""
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise ValueError(f"its rows are of different lengths, from {lengths[0]} to {lengths[-1]}")
    return int(lengths[0])

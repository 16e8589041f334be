"""A .safetensors file, mapped into memory: 8 bytes that say how long the header is, the header in JSON, the numbers.

NumPy reads it as it is; `safetensors.numpy` gives arrays whole, and no bfloat16 in all of its versions.
"""

import contextlib
import functools as ft
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from ufm.metrics.formats.stored import Openers, Stored, sliced

_SIZE = 8  # bytes of the header's length
_METADATA = "__metadata__"  # texts that a writer left
_TYPES: dict[str, Any] = {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
_TYPES |= {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_TYPES |= {"BOOL": "?", "BF16": jnp.bfloat16, "F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2}


def read(file: pathlib.Path, stack: contextlib.ExitStack) -> Openers:
    """Its tensors."""
    content = np.memmap(file, np.uint8, mode="r")
    begin = _SIZE + int.from_bytes(content[:_SIZE].tobytes(), "little")
    header = json.loads(content[_SIZE:begin].tobytes())
    header.pop(_METADATA, None)
    return {name: ft.partial(_tensor, content[begin:], **entry) for name, entry in header.items()}


def _tensor(content: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> Stored:
    """What stands at offsets, which are counted from the end of the header."""
    if dtype not in _TYPES:
        raise ValueError(f"a tensor of type {dtype}, of which NumPy has none")
    return sliced(content[slice(*data_offsets)].view(_TYPES[dtype]).reshape(shape))

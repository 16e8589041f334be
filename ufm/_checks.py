"""Arguments as people pass them: normalised, or a ValueError that names the argument, its value and what is legal."""

import math
import numbers
import os
import pathlib
from typing import Any

import jax
import numpy as np

# annotations of what people pass: they inform, and these functions check, so that a wrong type too is a ValueError
Integer = int | Any
Real = float | Any

SHOWN = 80  # characters of a value in an error
MOST_STEPS = 2**31 - 1  # of a loop, which compiled code counts in 32 bits


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int within bounds; any library's whole number, also one that is written as a float."""
    number = _number(value)
    whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    if not whole or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} = {shown(value)}: an integer {bounds} is needed")
    return int(number)


def real(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> float:
    """`value` as a finite float in [least, below), and greater than `above`."""
    number = _number(value)
    try:
        number = math.nan if number is None else float(number)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and least <= number and above < number < below):
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"greater than {above:g}"] * (above > -math.inf)
        bounds += [f"less than {below:g}"] * (below < math.inf)
        raise ValueError(f"{name} = {shown(value)}: a finite number {' and '.join(bounds)}".rstrip() + " is needed")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool where it is one, NumPy's too."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} = {shown(value)}: True or False is needed")
    return bool(value)


def choice(name: str, value: Any, legal: tuple[str, ...]) -> str:
    """`value` where it is one of `legal`."""
    if not isinstance(value, str) or value not in legal:
        raise ValueError(f"{name} = {shown(value)}: one of {', '.join(map(repr, legal))} is needed")
    return value


def instance(name: str, value: Any, kinds: type | tuple[type, ...], needed: str) -> Any:
    """`value` where it is of one of the `kinds`; `needed` says in words what is."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name} = {shown(value)}: {needed} is needed")
    return value


def path(name: str, value: Any) -> pathlib.Path:
    """`value` as a path, with ~ as the user's home."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{name} = {shown(value)}: a path is needed")
    return pathlib.Path(os.fsdecode(value)).expanduser()


def numeric(name: str, value: Any) -> Any:
    """`value` as an array of real numbers of NumPy, or of JAX where it is one already.

    Torch tensors, data frames, lists, other byte orders and masked arrays without a masked entry are converted, half
    precisions widened to float32. Text, objects, complex numbers, sparse, quantised, masked and valueless arrays are
    refused.
    """
    if isinstance(value, jax.Array):
        return value.astype(np.float32) if value.dtype in (np.float16, jax.numpy.bfloat16) else _real_typed(name, value)
    if hasattr(value, "detach"):
        value = _of_torch(name, value)
    if hasattr(value, "todense") or type(value).__module__.partition(".")[0] == "sparse":
        raise ValueError(f"{name}: a sparse array; a dense one, such as its .toarray() or .todense(), is needed")
    if np.ma.isMaskedArray(value) and np.ma.is_masked(value):
        raise ValueError(f"{name}: a masked array with masked entries; leave these out, or fill them, before")
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever a foreign object raises: it can't be converted
        raise ValueError(f"{name} = {shown(value)}: an array of numbers is needed") from error
    if array.dtype == np.float16 or array.dtype == jax.numpy.bfloat16:
        return array.astype(np.float32)
    array = _real_typed(name, array, value)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def doubles(name: str, value: Any, shape: tuple[int | None, ...] | None = None, needed: str = "") -> np.ndarray:
    """`value` as a finite float64 NumPy array of a shape, where None stands for any positive length."""
    array = np.asarray(numeric(name, value), np.float64)
    wanted = needed or f"finite numbers of shape {_text(shape)}"
    fits = shape is None or (
        array.ndim == len(shape)
        and all(n == m if m is not None else n > 0 for n, m in zip(array.shape, shape, strict=True))
    )
    if not fits:
        raise ValueError(f"{name} of shape {array.shape}: {wanted} are needed")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: a NaN or an infinity among its entries; {wanted} are needed")
    return array


def room_for(what: str, count: int, itemsize: int = 8) -> None:
    """Refuse `count` numbers that this machine's memory cannot hold, before it is tried."""
    needed, held = count * itemsize, _memory()
    if needed > held:
        raise ValueError(
            f"{what}: {count:,} numbers, which need {needed / 2**30:,.0f} GiB of memory; this machine has "
            f"{held / 2**30:,.0f} GiB"
        )


def shown(value: Any) -> str:
    """A value in an error: on one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a foreign object that can't be printed is still to be named
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _number(value: Any) -> int | float | None:
    """A real number of any library as Python's; None for whatever is none: truth values, text, complex numbers."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if getattr(value, "ndim", None) != 0 or isinstance(value, jax.core.Tracer):
        return None
    try:
        return numeric("", value).item()
    except ValueError:
        return None


def _real_typed(name: str, array: Any, value: Any = None) -> Any:
    """The array where its entries are whole or real numbers."""
    if np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer):
        return array
    what = f"entries of type {array.dtype}" if array.ndim or value is None else shown(value)
    raise ValueError(
        f"{name} = {what}: real numbers are needed" if not array.ndim else f"{name}: {what}; real numbers are needed"
    )


def _of_torch(name: str, tensor: Any) -> Any:
    """A torch tensor, on whatever device, as a NumPy array; or why it can't be one."""
    layout, device = str(getattr(tensor, "layout", "")), getattr(getattr(tensor, "device", None), "type", "")
    if "sparse" in layout:
        raise ValueError(f"{name}: a sparse tensor; a dense one, such as its .to_dense(), is needed")
    if getattr(tensor, "is_quantized", False):
        raise ValueError(f"{name}: a quantised tensor; its .dequantize() is needed")
    if device == "meta":
        raise ValueError(f"{name}: a tensor on the meta device, which has no values")
    tensor = tensor.detach().cpu()
    narrow = tensor.is_floating_point() and tensor.element_size() < 4
    return (tensor.float() if narrow else tensor).numpy()


def _text(shape: tuple[int | None, ...] | None) -> str:
    return "any" if shape is None else str(tuple("any" if n is None else n for n in shape)).replace("'", "")


def _memory() -> int:
    """Bytes of this machine's memory; without bound where the system doesn't say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63 - 1

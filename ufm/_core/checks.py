"""Arguments as people pass them: normalised, or a ValueError that names the argument, its value and what is legal.

A public function is annotated by what it is meant for (`problem: Problem`, `steps: Integer`), and passes each argument
through one of these functions, so that whatever else comes, of a wrong type too, is a ValueError. Those who check types
as the program runs leave the arguments of public functions to them (tests/typechecker.py).
"""

import math
import numbers
import os
import pathlib
from collections.abc import Mapping, Set, ValuesView
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ufm._core.arrays import held

Integer = int  # or any library's whole number
Real = float  # or any library's real number
SHOWN = 80  # characters of a value in an error
MOST_STEPS = 2**31 - 1  # of a loop, which compiled code counts in 32 bits


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int within bounds; any library's whole number, also one that is written as a float."""
    number = _number(value)
    if number is None or number % 1 != 0 or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" + (f" and at most {most}" if most is not None else "")
        raise ValueError(f"{name} = {shown(value)}: an integer {bounds} is needed")
    return int(number)


def real(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> float:
    """`value` as a finite float in [least, below), and greater than `above`."""
    number = _float(value)
    if number is None or not (math.isfinite(number) and least <= number and above < number < below):
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"greater than {above:g}"] * (above > -math.inf)
        bounds += [f"less than {below:g}"] * (below < math.inf)
        raise ValueError(f"{name} = {shown(value)}: a finite number {' and '.join(bounds)}".rstrip() + " is needed")
    return number


def number(name: str, value: Any) -> float:
    """`value` as a float, which may be NaN or infinite."""
    found = _float(value)
    if found is None:
        raise ValueError(f"{name} = {shown(value)}: a number is needed")
    return found


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


def instance(name: str, value: Any, kinds: Any, needed: str) -> Any:
    """`value` where it is of one of the `kinds`; `needed` says in words what is."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name} = {shown(value)}: {needed} is needed")
    return value


def function(name: str, value: Any, needed: str) -> Any:
    """`value` where it can be called and is no class."""
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name} = {shown(value)}: {needed} is needed")
    return value


def listed(name: str, value: Any, needed: str) -> list[Any]:
    """The entries of a list, an array of one axis, or a view such as `dict.values()`, in their order.

    Text, and what has no order or no length, is refused.
    """
    found = entries(value)
    if found is None or getattr(value, "ndim", 1) != 1:
        raise ValueError(f"{name} = {shown(value)}: {needed} is needed")
    return found


def entries(value: Any, ordered: bool = True) -> list[Any] | None:
    """The entries of a list, an array's first axis or a view; None of text, tables, and what has none.

    Args:
        value: whatever came.
        ordered: whether sets and what can be read only once have none either.
    """
    if isinstance(value, str | bytes | bytearray | Mapping | type):
        return None
    if ordered and (isinstance(value, Set) or not hasattr(value, "__len__")):
        return None
    try:
        return list(value)
    except TypeError:  # a number, or an array without axes
        return None


def path(name: str, value: Any) -> pathlib.Path:
    """`value` as a path, with ~ as the user's home."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{name} = {shown(value)}: a path is needed")
    return pathlib.Path(os.fsdecode(value)).expanduser()


def numeric(name: str, value: Any) -> Any:
    """`value` as an array of real numbers of NumPy, or of JAX where it traces one or an accelerator holds it.

    Torch tensors, data frames, lists, views such as `dict.values()`, other byte orders and masked arrays without a
    masked entry are converted, half precisions widened to float32, longer ones cut to float64. Text, objects, truth
    values, complex numbers, sparse, quantised, masked and valueless arrays are refused.
    """
    array = array_of(name, value)
    kind, floating = getattr(array.dtype, "kind", ""), jnp.issubdtype(array.dtype, np.floating)
    if not floating and (kind == "m" or not jnp.issubdtype(array.dtype, np.integer)):
        entries = f", an array of type {array.dtype}" if array.ndim else ""
        raise ValueError(f"{name} = {shown(value)}{entries}: real numbers are needed")
    array = held(array)
    if floating and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def array_of(name: str, value: Any) -> Any:
    """`value` as an array of whatever type: JAX's own where it is one, else what NumPy makes of it without loss."""
    return value if isinstance(value, jax.Array) else _as_numpy(name, value)


def doubles(name: str, value: Any, shape: tuple[int | None, ...] | None = None, needed: str = "") -> np.ndarray:
    """`value` as a finite float64 NumPy array of a shape, where None stands for any positive length."""
    array = np.asarray(numeric(name, value), np.float64)
    wanted = needed or f"finite numbers of shape {_text(shape)}"
    fits = shape is None or (
        array.ndim == len(shape)
        and all(n == m if m is not None else n > 0 for n, m in zip(array.shape, shape, strict=True))
    )
    if not fits:
        raise ValueError(f"{name} = {shown(value)}, of shape {array.shape}: {wanted} are needed")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} = {shown(value)}, with a NaN or an infinity in it: {wanted} are needed")
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
    if isinstance(value, bool | np.bool_ | np.timedelta64):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if getattr(value, "ndim", None) != 0 or isinstance(value, Tracer):
        return None
    try:
        return numeric("", value).item()
    except ValueError:
        return None


def _float(value: Any) -> float | None:
    """The same as a float; infinite where it is larger than any."""
    try:
        found = _number(value)
        return None if found is None else float(found)
    except OverflowError:
        return math.inf


def _as_numpy(name: str, value: Any) -> np.ndarray:
    """Whatever NumPy can make an array of without loss, as it makes it."""
    if hasattr(value, "detach") and not isinstance(value, type):
        return _of_torch(name, value)
    if hasattr(value, "todense") or type(value).__module__.partition(".")[0] == "sparse":
        raise ValueError(f"{name}: a sparse array; a dense one, such as its .toarray() or .todense(), is needed")
    if np.ma.isMaskedArray(value) and np.ma.is_masked(value):
        raise ValueError(f"{name}: a masked array with masked entries; leave these out, or fill them, before")
    try:
        return np.asarray(list(value) if isinstance(value, ValuesView) else value)
    except Exception as error:  # whatever a foreign object raises: it can't be converted
        raise ValueError(f"{name} = {shown(value)}: an array of numbers is needed") from error


def _of_torch(name: str, tensor: Any) -> np.ndarray:
    """A torch tensor, on whatever device, as a NumPy array; or why it can't be one."""
    layout, device = str(getattr(tensor, "layout", "")), getattr(getattr(tensor, "device", None), "type", "")
    if "sparse" in layout:
        raise ValueError(f"{name}: a sparse tensor; a dense one, such as its .to_dense(), is needed")
    if getattr(tensor, "is_quantized", False):
        raise ValueError(f"{name}: a quantised tensor; its .dequantize() is needed")
    if device == "meta":
        raise ValueError(f"{name}: a tensor on the meta device, which has no values")
    try:
        tensor = tensor.detach().cpu()
        half = tensor.is_floating_point() and tensor.element_size() < 4  # NumPy knows no bfloat16
        return (tensor.float() if half else tensor).numpy()
    except Exception as error:  # a tensor of a kind that has no NumPy array
        raise ValueError(f"{name}: a tensor that .detach().cpu().numpy() can't convert: {error}") from error


def _text(shape: tuple[int | None, ...] | None) -> str:
    return "any" if shape is None else str(tuple("any" if n is None else n for n in shape)).replace("'", "")


def _memory() -> int:
    """Bytes of this machine's memory; without bound where the system doesn't say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63 - 1

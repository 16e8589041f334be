"""Labels as people pass them: whole numbers of any library, or a ValueError that says how to make them such."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ufm._core.checks import array_of, integer, number, numeric, shown
from ufm._core.precision import is_traced

MOST_LABEL = 2**31 - 2  # so that int32 holds the number of classes too
EXACT_BELOW = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24}  # above, two labels are rounded to one
USUALLY_IGNORED = (-100, -1)  # by PyTorch's losses, and by scikit-learn as unlabelled


def checked_labels(name: str, value: Any, samples: int, ignore: Any = None) -> tuple[Any, np.ndarray | None]:
    """Labels in int32, of NumPy or as JAX traces them, and which samples they are of.

    Args:
        name: of the argument, in errors.
        value: (samples,) whole numbers of any library and type; traced ones are of an integer type, and their values
            can't be checked.
        samples: how many there are.
        ignore: an integer; samples of this label are left out.

    Returns:
        The labels that are left, and a mask (samples,) of what is left; None in its place where all are.

    Raises:
        ValueError: for another shape, a label that is no whole number or isn't from 0 to 2³¹ − 2, and traced labels
            of which some are to be left out.
    """
    array = array_of(name, value)
    _check_shape(name, value, array.shape, samples)
    if is_traced(array):
        return _traced(name, array, ignore), None
    array = _whole(name, array)
    ignore = checked_ignore(ignore)
    keep = None if ignore is None else array != ignore
    keep = None if keep is None or np.all(keep) else keep
    array = array if keep is None else array[keep]
    if array.size:
        _check_range(name, array, str(getattr(value, "dtype", "")))
    return array.astype(np.int32), keep


def checked_ignore(ignore: Any) -> int | None:
    """A label whose samples are left out, or None."""
    return None if ignore is None else integer("ignore", ignore, least=-(2**63), most=2**63 - 1)


def _check_shape(name: str, value: Any, shape: tuple[int, ...], samples: int) -> None:
    """Refuse what isn't (samples,), and say how to make it so."""
    if shape == (samples,):
        return
    advice = ""
    if shape == (samples, 1):
        advice = f"; {name}.ravel() makes them"
    elif shape[1:] and shape[0] == samples:
        advice = f"; {name}.argmax(axis=1) makes them of one-hot rows"
    elif shape[1:] and np.prod(shape) == samples:
        advice = f"; {name}.reshape(-1) makes them, as H.reshape(-1, d) makes features of tokens"
    given = f"of shape {shape}" if shape else f"= {shown(value)}"
    raise ValueError(f"{name} {given}: ({samples},), one for each row of the features H, are needed{advice}")


def _traced(name: str, labels: Any, ignore: Any) -> Any:
    """Labels whose values aren't known; what 32 bits can't hold stays out of range instead of wrapping into it."""
    if not jnp.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} of type {labels.dtype}, traced by JAX: integers are needed")
    if ignore is not None:
        raise ValueError(f"ignore = {shown(ignore)}: {name} traced by JAX have no values by which to leave samples out")
    bounds = jnp.iinfo(labels.dtype)
    narrow = bounds.max <= MOST_LABEL + 1
    return (labels if narrow else jnp.clip(labels, max(bounds.min, -1), MOST_LABEL + 1)).astype(np.int32)


def _whole(name: str, array: Any) -> np.ndarray:
    """Labels that are whole numbers, of NumPy's integer or floating types."""
    if array.dtype == bool:
        raise ValueError(f"{name} of truth values: whole numbers are needed; {name}.astype(int) makes False class 0")
    if array.dtype.kind in "OSU":
        array = np.array([_of_object(f"{name}[{i}]", entry) for i, entry in enumerate(array.tolist())])
    array = np.asarray(numeric(name, array))
    if array.dtype.kind in "iu":
        return array
    if not np.issubdtype(array.dtype, np.floating):
        return array.astype(np.int32)  # of fewer than eight bits
    whole = np.isfinite(array) & (array == np.floor(array))
    if not np.all(whole):
        first = int(np.argmin(whole))
        raise ValueError(f"{name}[{first}] = {array[first]!s}, of type {array.dtype}: whole numbers are needed")
    return array


def _of_object(name: str, entry: Any) -> float:
    """A number of Python's, or of whatever library, as a float."""
    if isinstance(entry, str | bytes):
        raise ValueError(
            f"{name} = {shown(entry)}: whole numbers are needed; np.unique(labels, return_inverse=True)[1] makes them "
            "of names"
        )
    return number(name, entry)


def _check_range(name: str, labels: np.ndarray, kind: str) -> None:
    """Refuse what is no label, or may be the rounding of others by the `kind` of floats that they came in."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0:
        usual = next((label for label in USUALLY_IGNORED if np.any(labels == label)), None)
        advice = "" if usual is None else f"; ignore={usual} leaves such samples out"
        raise ValueError(f"{name} down to {least}: integers from 0 are needed{advice}")
    if most > MOST_LABEL:
        raise ValueError(f"{name} up to {most}: integers from 0 to {MOST_LABEL} are needed")
    exact = EXACT_BELOW.get(kind.lower().removeprefix("torch."), MOST_LABEL + 1)
    if most >= exact:
        raise ValueError(f"{name} up to {most} in {kind}, which rounds from {exact} on: integers are needed")

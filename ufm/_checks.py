"""Arguments as people pass them: normalised, or a ValueError that names the argument, its value and what is legal."""

import math
import numbers
from typing import Any

# annotations of what people pass: they inform, and these functions check, so that a wrong type too is a ValueError
Integer = int | Any
Real = float | Any


def integer(name: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} = {value!r}: an integer of at least {least} is needed")
    return int(value)


def real(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> float:
    """`value` as a finite float in [least, below), and greater than `above`."""
    scalar = isinstance(value, numbers.Real) or (hasattr(value, "ndim") and value.ndim == 0)
    number = float(value) if scalar and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and least <= number and above < number < below):
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"greater than {above:g}"] * (above > -math.inf)
        bounds += [f"less than {below:g}"] * (below < math.inf)
        raise ValueError(f"{name} = {value!r}: a finite number {' and '.join(bounds)}".rstrip() + " is needed")
    return number


def choice(name: str, value: Any, legal: tuple[str, ...]) -> str:
    """`value` where it is one of `legal`."""
    if value not in legal:
        raise ValueError(f"{name} = {value!r}: one of {', '.join(map(repr, legal))} is needed")
    return value

"""Parameters of the model, in rows as people hold them and in columns as compiled code does."""

from typing import Any, NamedTuple

from ufm._core.archive import storable
from ufm._core.repr import call


@storable
class Params(NamedTuple):
    """Parameters of the model: features H (N, d), classifier A (K, d), bias b (K,), hidden layers W.

    One sample a row of H, samples of one class together, classes in order; b is zero where a problem has
    no bias.
    """

    H: Any
    A: Any
    b: Any
    W: tuple = ()

    def __repr__(self) -> str:
        return call("Params", {name: value for name, value in self._asdict().items() if name != "W" or value})


class Columns(NamedTuple):
    """The same with one sample a column, H (d, N): what jitted code holds, since softmax then vectorises over samples.

    With several seeds every array has one more axis, the first.
    """

    H: Any
    A: Any
    b: Any
    W: tuple = ()


def columns(params: Params) -> Columns:
    """Rows to columns; of arrays of any library, and of several seeds."""
    return Columns(*params)._replace(H=_swapped(params.H))


def rows(params: Columns) -> Params:
    """Columns to rows."""
    return Params(*params)._replace(H=_swapped(params.H))


def _swapped(H: Any) -> Any:
    return H.T if H.ndim == 2 else H.swapaxes(-1, -2)

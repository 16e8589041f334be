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


def columns(params: Params) -> Params:
    """The same parameters with H transposed: rows to columns or back."""
    return params._replace(H=params.H.T)

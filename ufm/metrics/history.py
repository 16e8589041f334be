"""Metrics over the snapshots of a run."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ufm._core import archive
from ufm._core.pytree import pytree
from ufm._core.repr import call, fields_of
from ufm.metrics.definitions import LONG_NAMES, Metrics
from ufm.metrics.layers import layer_name

if TYPE_CHECKING:
    import xarray

CHIEF = ("step", "loss", "nc1", "nc2", "nc3", "nc4", "accuracy")  # of a history, in a table


@archive.storable
@pytree
class History:
    """Arrays over snapshots, (S,) or (seeds, S) for several seeds.

    Every field of `Metrics` is an attribute: `history.nc1`. After a divergence the rows that follow are absent,
    or NaN where another seed went on.

    Attributes:
        step: (S,) optimiser steps taken.
        loss: the objective.
        metrics: `Metrics` of arrays.
        layers: `Metrics` of arrays with one more axis, the last: features H and then every hidden layer, of which the
            last is what `metrics` speak of (see `ufm.metrics.layers`); None where there are no hidden layers.
    """

    step: Any
    loss: Any
    metrics: Metrics
    layers: Metrics | None = None

    def __getattr__(self, name: str) -> Any:
        if name in Metrics._fields:
            return getattr(self.metrics, name)
        raise AttributeError(f"History has no {name!r}; it has step, loss, {', '.join(Metrics._fields)}")

    def __repr__(self) -> str:
        if not isinstance(self.loss, np.ndarray):
            return call("History", {name: value for name, value in fields_of(self).items() if value is not None})
        if not len(self.step):
            return "History(0 snapshots)"
        seeds = f" of {len(self.loss)} seeds" if self.loss.ndim == 2 else ""
        steps = f"{len(self.step)} snapshots{seeds}, steps {self.step[0]} to {self.step[-1]}"
        return f"History({steps}: {self.last()})"

    def _repr_html_(self) -> str:
        from ufm._core.tables import html

        return html(CHIEF, self.rows())

    def last(self) -> str:
        """Loss and chief metrics at the last snapshot on a line for a log; of several seeds their means."""
        return news(*(value[..., -1] for value in (self.loss, *self.metrics)))

    def to_xarray(self) -> "xarray.Dataset":
        """Loss and metrics over `snapshot`, with a coordinate `step`, and of several seeds over `seed` before it."""
        import xarray

        dims = ("seed", "snapshot") if np.ndim(self.loss) == 2 else ("snapshot",)
        values = {"loss": self.loss, **dict(self.metrics.known())}
        variables: dict[str, Any] = {n: (dims, value, {"long_name": LONG_NAMES[n]}) for n, value in values.items()}
        for name, value in [] if self.layers is None else self.layers.known():
            variables[f"layer_{name}"] = ((*dims, "layer"), value, {"long_name": layer_name(name)})
        return xarray.Dataset(variables, {"step": ("snapshot", self.step, {"long_name": LONG_NAMES["step"]})})

    def of_seed(self, index: int) -> "History":
        """(S,) arrays of one of several seeds, up to its own divergence."""
        alone = jax.tree.map(lambda leaf: leaf[index], (self.loss, self.metrics, self.layers))
        keep = max(int(known_snapshots(alone[0])), 1)
        return History(self.step[:keep], *jax.tree.map(lambda leaf: leaf[:keep], alone))

    def rows(self, count: int = 8) -> list[list[Any]]:
        """At most `count` rows of `CHIEF`, evenly spaced, for a table; of several seeds their means."""
        chosen = np.unique(np.linspace(0, len(self.step) - 1, count).astype(int)) if len(self.step) else []
        columns = [getattr(self, name) for name in CHIEF[1:]]
        return [[int(self.step[at]), *(np.mean(column[..., at]) for column in columns)] for at in chosen]


def known_snapshots(loss: np.ndarray) -> Any:
    """Snapshots before the loss (..., S) stopped being a number."""
    return np.logical_and.accumulate(np.isfinite(loss), axis=-1).sum(axis=-1)


def news(loss, *metrics) -> str:
    """The last metrics on a line, for a bar or a log; means over seeds."""
    values = {"loss": loss, **dict(zip(Metrics._fields, metrics, strict=True))}
    return "  ".join(f"{name} {np.mean(values[name]):.1e}" for name in ("loss", "nc1", "nc2", "nc3", "nc4"))

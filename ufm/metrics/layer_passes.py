"""The two passes over the features of several layers: the last one's decisions are what the others are judged by."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ufm.metrics.arguments import Batch
from ufm.metrics.classes import Measured
from ufm.metrics.definitions import Metrics
from ufm.metrics.fed import Fed
from ufm.metrics.layers import side_by_side
from ufm.metrics.rows import decisions_of

Passes = Callable[[], Iterable[Batch]]  # gives the batches of a layer, the same ones whenever it is asked


def measured_layers(
    layers: Sequence[Passes], readers: Sequence[Any], bias: Any, num_classes: int, absent: str
) -> Metrics:
    """Metrics of the same samples' features in several layers, as arrays over these.

    Args:
        layers: from the first to the one that the classifier reads, each in batches of its own.
        readers: of each layer a classifier (K, d_j), or None.
        bias: (K,) of the last one; None without a classifier.
        num_classes: K.
        absent: what becomes of classes without a sample: "error", or "drop".
    """
    (*before, last), (*others, A) = layers, readers
    decided: list[np.ndarray] = []
    found = [_metrics(_seen(last, num_classes, absent), last(), (A, bias), decided)]
    decisions = np.concatenate(decided) if decided else None
    for passes, reader in zip(reversed(before), reversed(others), strict=True):
        fed = _seen(passes, num_classes, absent)
        for samples, told in _cut(passes(), decisions):
            fed.take_again(samples, (None, None), told)
        found.append(fed.metrics(reader))
    return side_by_side(found[::-1])


def _seen(passes: Passes, num_classes: int, absent: str) -> Fed:
    """What the first pass says."""
    fed = Fed(num_classes, absent=absent)
    for samples in passes():
        fed.take(samples)
    return fed


def _metrics(fed: Fed, batches: Iterable[Batch], given: tuple[Any, Any], decided: list[np.ndarray]) -> Measured:
    """Of the layer that the classifier reads, whose decisions are written down batch by batch."""
    means = fed.means()
    judges = means.judges(*given)
    for samples in batches:
        fed.take_again(samples, given)
        if judges is not None:
            decided += decisions_of(samples.H, means.about, (judges.given,))
    return fed.metrics()


def _cut(batches: Iterable[Batch], decisions: np.ndarray | None) -> Iterator[tuple[Batch, np.ndarray | None]]:
    """Each batch with what was decided of its samples, where anything was."""
    first = 0
    for samples in batches:
        end = first + len(samples.labels)
        yield samples, None if decisions is None else decisions[first:end]
        first = end

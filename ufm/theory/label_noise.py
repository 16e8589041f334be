"""Symmetric label noise: the same minimum as labels with smoothing."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ufm.model.losses import LabelSmoothing
from ufm.model.problem import Problem
from ufm.theory._groups import CROSS_ENTROPIES, is_told, targets_of
from ufm.theory.formulas import VALUE, smoothing
from ufm.theory.registry import THEOREMS, Check, Found, Prediction, theorem

EXACT = 1e-13  # of probabilities
OF_GROUPS = ("metrics",)  # what is measured of classes and not of groups


def _noise(problem: Problem) -> float | None:
    """The α in (0, 1) of targets (1−α)I + αJ/K; None of others, and of labels, which are solved as such."""
    T, K = np.asarray(targets_of(problem).rows), problem.num_classes
    if problem.num_groups != K:
        return None
    alpha = float(K * T[0, 1])
    fits = np.max(np.abs(T - (1 - alpha) * np.eye(K) - alpha / K)) <= EXACT
    return alpha if fits and 0 < alpha < 1 - EXACT else None


def as_labels(problem: Problem) -> Problem | None:
    """The problem with class labels that has the same minima; None where there is none."""
    if (noise := _noise(problem)) is None:
        return None
    loss = LabelSmoothing(1 - (1 - noise) * (1 - smoothing(problem)))
    words = {"num_classes": problem.num_classes, "per_class": problem.group_counts, "loss": loss}
    return dataclasses.replace(problem, targets=None, class_weights=problem.group_weights, **words)


def _checks(problem: Problem, found: Found) -> Iterator[Check]:
    """The minimum is compared with the other problem's, which the solver finds by itself."""
    other = found.minimum(_labelled(problem))
    yield found.of_another("minimum with labels and smoothing", other, tolerance=VALUE)


def _labelled(problem: Problem) -> Problem:
    other = as_labels(problem)
    assert other is not None
    return other


@theorem(
    "label noise",
    paper="Nguyen et al. 2023; Zhou et al. 2022 (smoothing)",
    family="targets",
    assumes="cross-entropy or label smoothing, a group for each class with targets (1−α)I + αJ/K: features shared by "
    "the clean class, labels wrong at random; any counts and weights, weight decay on A and H, any bias and d",
    applies=lambda problem: is_told(problem, *CROSS_ENTROPIES) and as_labels(problem) is not None,
    checks=_checks,
    any_targets=True,
)
def label_noise(problem: Problem) -> Prediction:
    """What theorems say of labels with smoothing α = εK/(K−1), where a label is wrong with probability ε.

    The mean cross-entropy to random labels is that to their probabilities, 1−ε at the clean class and ε/(K−1)
    elsewhere, which are the targets of label smoothing with αJ/K + (1−α)I for I. Smoothing itself adds up as
    1−α = (1−α₁)(1−α₂). Trap: noise whose features are free for each sample is no matter of targets, since samples then
    group by their noisy label.
    """
    other, said = _labelled(problem), dict[str, Any]()
    for known in [known for known in THEOREMS.values() if known.speaks_of(other)]:
        predicted = known.predict(other)
        for field in dataclasses.fields(Prediction):
            value = getattr(predicted, field.name)
            if field.name not in OF_GROUPS and value is not None:
                said.setdefault(field.name, value)
    return Prediction(**said)

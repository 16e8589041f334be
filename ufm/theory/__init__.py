"""The literature's theorems, one file a family; a file registers what it assumes and what it predicts."""

import importlib
import pkgutil

from ufm.model.problem import Problem
from ufm.theory.registry import THEOREMS, Prediction, Theorem

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")


def theorems() -> tuple[Theorem, ...]:
    """Every theorem known, in the order of their files."""
    return tuple(THEOREMS)


def applicable(problem: Problem) -> list[tuple[Theorem, Prediction]]:
    """The theorems whose assumptions a problem meets, each with what it predicts."""
    return [(theorem, theorem.predict(problem)) for theorem in THEOREMS if theorem.applies(problem)]

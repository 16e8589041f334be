"""The literature's theorems, one file a family; a file registers what it assumes, predicts and checks."""

import importlib
import pkgutil

from ufm._core.checks import instance
from ufm._core.descent import factor as factor
from ufm.model.problem import Problem
from ufm.theory.formulas import is_about as is_about
from ufm.theory.formulas import is_plain as is_plain
from ufm.theory.registry import THEOREMS, Prediction, Theorem, module_of
from ufm.theory.registry import Check as Check
from ufm.theory.registry import Found as Found
from ufm.theory.registry import theorem as theorem

_FILES = sorted(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
for _file in _FILES:
    importlib.import_module(_file)


def theorems() -> tuple[Theorem, ...]:
    """Every theorem known: ours by file in alphabetical order, in a file from the top, then others as registered."""
    place = {file: index for index, file in enumerate(_FILES)}
    return tuple(sorted(THEOREMS.values(), key=lambda known: place.get(module_of(known.predict), len(place))))


def applicable(problem: Problem) -> list[tuple[Theorem, Prediction]]:
    """The theorems whose assumptions a problem meets, each with what it predicts.

    Raises:
        ValueError: where one predicts anything but a `Prediction`.
    """
    return [(known, _prediction(known, problem)) for known in theorems() if known.speaks_of(problem)]


def _prediction(known: Theorem, problem: Problem) -> Prediction:
    predicted = known.predict(problem)
    return instance(f"prediction of {known.name!r}", predicted, Prediction, "a ufm.theory.Prediction")

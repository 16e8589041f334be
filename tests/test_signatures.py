"""Public signatures say what is meant: two arguments by position at most, and a type for each that says something."""

import importlib.util
import inspect
import types
import typing
from typing import Any

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from typechecker import OFFERED, jaxtyped, public

import ufm
import ufm.console
import ufm.plot
from ufm.model import entropies
from ufm.model.constraints import Constraint
from ufm.model.losses import Loss
from ufm.theory import registry

# which functions return, and people don't make
RECORDS = (
    "Claim",
    "Margin",
    "Metrics",
    "Optimum",
    "RegressionMetrics",
    "Report",
    "Run",
    "Spectrum",
    "Status",
    "Verdict",
)
# what always comes together, in an order that everybody knows: H, labels, A, b; and classes, what they become, samples
TOGETHER = {
    **dict.fromkeys(("Params", "measure", "Stream.revisit", "Recorder.revisit", "Recorder.evaluate"), 4),
    **dict.fromkeys(("measure_regression", "targets.noisy", "targets.mixup"), 3),
}
# values of any type, which is what is meant
ANYTHING = {
    "Problem": ("loss",),  # any callable of logits and labels
    "Params": ("H", "A", "b"),  # arrays of any library, traced ones, and whatever JAX maps over
}


def functions():
    """Names and functions, or classes, that people call."""
    for name, thing in vars(ufm).items():
        if name.startswith("_") or not callable(thing):
            continue
        if name not in RECORDS:
            yield name, thing
        if inspect.isclass(thing):
            yield from ((f"{name}.{method}", function) for method, function in methods(thing))
    for module in (ufm.console, ufm.geometry, ufm.plot, ufm.targets, registry):
        for name, thing in vars(module).items():
            if inspect.isfunction(thing) and thing.__module__ == module.__name__ and public(module.__name__, name):
                yield f"{module.__name__.removeprefix('ufm.')}.{name}", thing


def methods(cls):
    """Those without an underscore; of losses and constraints only what isn't called by traced code alone."""
    kinds = classmethod if issubclass(cls, Loss | Constraint) else classmethod | type(methods)
    for name, thing in vars(cls).items():
        if not name.startswith("_") and isinstance(thing, kinds):
            yield name, getattr(cls, name)


FUNCTIONS = dict(functions())


def taken(function):
    return [each for each in inspect.signature(function).parameters.values() if each.name not in ("self", "cls")]


def says_something(annotation):
    """Whether a type leaves anything out: not so Any, nor a union with it."""
    joined = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    return not {Any, inspect.Parameter.empty} & {annotation, *joined}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_at_most_two_arguments_go_by_position(name):
    by_position = [each.name for each in taken(FUNCTIONS[name]) if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert len(by_position) <= TOGETHER.get(name, 2), by_position


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_has_a_type_that_says_something(name):
    vague = {each.name for each in taken(FUNCTIONS[name]) if not says_something(each.annotation)}
    assert vague <= set(ANYTHING.get(name, ())), vague


def test_the_modules_whose_arguments_the_type_checker_leaves_alone_are_there():
    assert all(importlib.util.find_spec(module) for module in OFFERED)


def test_annotations_are_checked_while_tests_run():
    def cut(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], to: int) -> Float[np.ndarray, " n"]:
        return x[:to]

    checked = jaxtyped(cut)
    for size in (2, 3):  # names of axes are of one call
        checked(np.zeros(size), np.zeros(size), size)
    wrong = [(np.zeros(3), np.zeros(2), 3), (np.zeros(3), np.zeros(3, int), 3), (np.zeros(3), np.zeros(3), 2)]
    for arguments in wrong:
        with pytest.raises(BeartypeCallHintViolation):
            checked(*arguments)
    with pytest.raises(BeartypeCallHintViolation):
        entropies.one_hot(np.zeros((2, 3)), np.zeros(3))  # labels that are no integers

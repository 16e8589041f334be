"""Every argument of every public function meets some thirty kinds of wrong value, and answers by an error of ours."""

import dataclasses
import functools as ft
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest
import scipy.sparse
from matplotlib.figure import Figure
from zoo import problem

import ufm
import ufm.plot
from ufm.metrics.history import History
from ufm.model.constraints import Constraint
from ufm.model.losses import Loss
from ufm.theory import registry

WRONG = {
    "text": "p",
    "digits": "3",
    "empty text": "",
    "bytes": b"abc",
    "None": None,
    "True": True,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "0": 0,
    "1j": 1j,
    "10**30": 10**30,
    "object": object(),
    "class": int,
    "function": lambda: 1,
    "generator": (i for i in ()),
    "[]": [],
    "{}": {},
    "set": {1, 2, 3},
    "ragged": [[1], [1, 2]],
    "nested": [[1, 2, 3]],
    "texts": ["1", "1", "1"],
    "mixed": [1, None, "a"],
    "text array": np.array("x"),
    "object array": np.array([object()] * 3),
    "complex array": np.full(3, 1j),
    "NaN array": np.full(3, np.nan),
    "masked array": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "sparse array": scipy.sparse.csr_array(np.eye(3)),
    "durations": np.full(3, 1, "m8[s]"),
}

# those of them that are right for some arguments
NONE, TRUE, FUNCTION, NESTED, EMPTY = {"None"}, {"True"}, {"function"}, {"nested"}, {"{}"}
SEED, POSITIVE = {"0", "10**30"}, {"1.5", "10**30"}
IGNORED = {"None", "-1", "0"}
AT_LEAST_0, NAME = POSITIVE | {"0"}, {"text", "digits"}
TEXT = NAME | {"empty text"}

RECORDS = (
    "Claim",
    "Margin",
    "Metrics",
    "Optimum",
    "Params",
    "RegressionMetrics",
    "Report",
    "Run",
    "Spectrum",
    "Status",
    "Verdict",
)  # that functions return; they hold what they're given


@dataclasses.dataclass(frozen=True)
class Call:
    """A function, arguments that are right for it, and the names of wrong values that are right for some of them."""

    of: Callable
    words: dict[str, Any]
    right: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    compiles: bool = False  # so that only what is refused is tried


H, LABELS, A, B = np.random.default_rng(0).normal(size=(9, 2)), np.repeat(np.arange(3), 3), np.eye(3, 2), np.zeros(3)
BATCH, CLASSIFIER = {"labels": LABELS}, {"A": A, "b": B}
HISTORY = History(np.arange(2), np.ones(2), ufm.Metrics(*np.ones((12, 2))))
PARAMS = ufm.Params(np.ones((15, 4)), np.ones((3, 4)), np.zeros(3))
POINT = {"problem": problem(), "params": PARAMS}
FRAME = {"num_classes": 3, "dim": 4, "seed": 0}
FREE = {"features": ufm.Free(), "classifier": ufm.Free()}
FRAMED = {"seed": SEED | NONE}
OPTIONAL = {"A": NONE, "b": NONE}


def fed(of, name):
    """A method of a recorder, or its stream, that was fed."""

    def call(**words):
        made = of(3)
        made.add(H, LABELS)
        return getattr(made, name)(**words)

    return call


def register(**words):
    """A theorem, forgotten at once."""

    def prediction(problem):
        """What it says."""

    registry.theorem(**words)(prediction)
    registry.THEOREMS.popitem()


TABLE = {
    "Problem": Call(
        ufm.Problem,
        {"num_classes": 3, "dim": 4, "per_class": 5, "loss": ufm.CrossEntropy(), "lambda_A": 1e-2, "lambda_H": 1e-2}
        | {"lambda_b": 0.0, "bias": True, "class_weights": None, "targets": None, **FREE}
        | {"widths": (5,), "lambda_W": 1e-2, "activation": "linear"},
        dict.fromkeys(("lambda_A", "lambda_H", "lambda_b"), AT_LEAST_0)
        | {"bias": TRUE, "class_weights": NONE, "targets": NONE, "lambda_W": AT_LEAST_0 | NONE},
    ),
    "Problem.init": Call(problem().init, {"seed": 0, "scale": 1.0}, {"seed": SEED, "scale": AT_LEAST_0}),
    "Problem.objective": Call(problem().objective, {"params": PARAMS}),
    "Problem.check_params": Call(problem().check_params, {"params": PARAMS}),
    "Problem.parts_of": Call(problem().parts_of, {"params": PARAMS}),
    "Problem.finite_params": Call(problem().finite_params, {"params": PARAMS}),
    "Targets": Call(
        ufm.Targets, {"rows": [[1, 2, 3]], "counts": [2], "weights": [1.0]}, {"rows": NESTED, "weights": NONE}
    ),
    "Targets.save": Call(ufm.Targets([[1, 2]], 1).save, {"path": "file"}, {"path": NAME}),
    "Sphere": Call(ufm.Sphere, {"radius": 1.0}, {"radius": POSITIVE}),
    "Ball": Call(ufm.Ball, {"radius": 1.0}, {"radius": POSITIVE}),
    "MeanBall": Call(ufm.MeanBall, {"radius": 1.0}, {"radius": POSITIVE}),
    "Fixed": Call(ufm.Fixed, {"matrix": np.eye(3)}, {"matrix": NESTED}),
    "Fixed.etf": Call(ufm.Fixed.etf, {**FRAME, "radius": 1.0}, {"seed": SEED, "radius": POSITIVE}),
    "LabelSmoothing": Call(ufm.LabelSmoothing, {"alpha": 0.1}, {"alpha": {"0"}}),
    "Focal": Call(ufm.Focal, {"gamma": 2.0}, {"gamma": AT_LEAST_0}),
    "VectorScaling": Call(
        ufm.VectorScaling,
        {"additive": [0.0, -1.0], "multiplicative": [1.0, 0.5]},
        {"additive": {"1.5", "10**30", "-1", "0"}, "multiplicative": POSITIVE},
    ),
    "VectorScaling.logit_adjustment": Call(
        ufm.VectorScaling.logit_adjustment, {"counts": [4, 2], "tau": 1.0}, {"tau": POSITIVE | {"-1", "0"}}
    ),
    "VectorScaling.cdt": Call(ufm.VectorScaling.cdt, {"counts": [4, 2], "gamma": 0.2}, {"gamma": {"1.5", "-1", "0"}}),
    "VectorScaling.ldt": Call(ufm.VectorScaling.ldt, {"counts": [4, 2], "gamma": 0.2}, {"gamma": {"1.5", "-1", "0"}}),
    "VectorScaling.vs": Call(
        ufm.VectorScaling.vs,
        {"counts": [4, 2], "gamma": 0.2, "tau": 1.0},
        {"gamma": {"1.5", "-1", "0"}, "tau": POSITIVE | {"-1", "0"}},
    ),
    "VectorScaling.ldam": Call(
        ufm.VectorScaling.ldam, {"counts": [4, 2], "margin": 0.5}, {"margin": POSITIVE | {"-1", "0"}}
    ),
    "DotRegression": Call(ufm.DotRegression, {"target": 1.0}, {"target": POSITIVE}),
    "curvature": Call(ufm.curvature, POINT),
    "spectrum": Call(ufm.spectrum, POINT),
    "theory.factor": Call(
        ufm.theory.factor,
        {"rate": 0.1, "learning_rate": 0.1, "momentum": 0.0, "nesterov": False, "power": 1.0},
        {
            "rate": {"0", "1.5", "-1", "nested", "[]"},
            "learning_rate": POSITIVE,
            "momentum": {"0"},
            "nesterov": TRUE,
            "power": POSITIVE,
        },
    ),
    "dual_bound": Call(ufm.dual_bound, POINT),
    "lower_bound": Call(ufm.lower_bound, POINT),
    "predict": Call(ufm.predict, {"problem": problem()}),
    "verify": Call(ufm.verify, {"subject": problem()}),
    "minimize": Call(
        ufm.minimize,
        {"problem": problem(), "seed": 0, "tol": 1e-8, "max_steps": 3000},
        {"seed": SEED, "tol": POSITIVE},
        compiles=True,
    ),
    "max_margin": Call(
        ufm.max_margin,
        {"problem": problem(), "seed": 0, "tol": 1e-8, "max_steps": 9},
        {"seed": SEED, "tol": POSITIVE},
    ),
    "Margin.save": Call(ft.partial(ufm.Margin.save, None), {"path": "file"}, {"path": NAME}),
    "Optimum.save": Call(ft.partial(ufm.Optimum.save, None), {"path": "file"}, {"path": NAME}),
    "load": Call(ufm.load, {"path": "file"}),
    "train": Call(
        ufm.train,
        {"problem": problem(), "optimizer": optax.sgd(0.5), "steps": 2, "seed": 0, "snapshots": 2, "params": None}
        | {"precision": "float32", "resume": None, "progress": False},
        {"seed": SEED, "params": NONE, "resume": NONE, "progress": NONE | TRUE},
        compiles=True,
    ),
    "Run.save": Call(ft.partial(ufm.Run.save, None), {"path": "file"}, {"path": NAME}),
    "Training": Call(
        ufm.Training,
        {"optimizer": optax.sgd, "options": {"learning_rate": 0.5}, "steps": 2, "snapshots": 2, "precision": "float32"},
        {"options": EMPTY},
    ),
    "sweep": Call(
        ufm.sweep,
        {"problem": problem(), "over": {"lambda_A": [1e-2]}, "run": ufm.minimize, "store": None, "executor": None}
        | {"progress": False, "params": False, "versions": "same"},
        {"store": NONE | NAME, "executor": NONE, "progress": NONE | TRUE, "params": TRUE},
        compiles=True,
    ),
    "measure": Call(
        ufm.measure,
        {"H": H, **BATCH, **CLASSIFIER, "means": None, "absent": "drop", "ignore": None, "per_class": False},
        {"b": NONE, "means": NONE, "per_class": TRUE, "ignore": IGNORED},
    ),
    "measure_regression": Call(
        ufm.measure_regression, {"H": H, "Y": H, "A": np.eye(2), "gamma": None}, {"gamma": AT_LEAST_0 | NONE}
    ),
    "metrics.evaluate": Call(
        ufm.metrics.evaluate, {"H": H, **BATCH, **CLASSIFIER, "num_classes": 3}, {"b": NONE, "num_classes": NONE}
    ),
    "Stream": Call(ufm.Stream, {"num_classes": 3, "absent": "error", "ignore": None}, {"ignore": IGNORED}),
    "Stream.add": Call(lambda **words: ufm.Stream(3).add(**words), {"H": H, **BATCH}),
    "Stream.revisit": Call(fed(ufm.Stream, "revisit"), {"H": H, **BATCH, **CLASSIFIER}, {"b": NONE}),
    "Stream.metrics": Call(
        fed(ufm.Stream, "metrics"), {**CLASSIFIER, "per_class": False}, {"b": NONE, "per_class": TRUE}
    ),
    "Recorder": Call(
        ufm.Recorder, {"num_classes": 3, "history": HISTORY, "absent": "error", "ignore": None}, {"ignore": IGNORED}
    ),
    "Recorder.add": Call(lambda **words: ufm.Recorder(3).add(**words), {"features": H, **BATCH}),
    "Recorder.revisit": Call(fed(ufm.Recorder, "revisit"), {"features": H, **BATCH, **CLASSIFIER}, {"b": NONE}),
    "Recorder.epoch": Call(
        fed(ufm.Recorder, "epoch"),
        {**CLASSIFIER, "step": 3, "loss": 0.5, "per_class": False},
        {"b": NONE, "step": NONE | {"0"}, "loss": AT_LEAST_0 | {"-1", "nan", "inf"}, "per_class": TRUE},
    ),
    "Recorder.evaluate": Call(fed(ufm.Recorder, "evaluate"), {"features": H, **BATCH, **CLASSIFIER}, {"b": NONE}),
    "Recorder.merge": Call(fed(ufm.Recorder, "merge"), {"other": ufm.Recorder(3)}),
    "Recorder.from_state": Call(
        ufm.Recorder.from_state, {"state": ufm.Recorder(3).state(), "history": None}, {"history": NONE}
    ),
    "Recorder.figure": Call(ufm.Recorder(3, HISTORY).figure, {"name": "a"}, {"name": TEXT}),
    "Recorder.save": Call(ufm.Recorder(3, HISTORY).save, {"path": "file"}, {"path": NAME}),
    "targets.classes": Call(ufm.targets.classes, {"num_classes": 3, "per_class": 2}),
    "targets.noisy": Call(
        ufm.targets.noisy, {"num_classes": 3, "confusion": 0.2, "per_class": [1, 2, 3]}, {"confusion": {"0"}}
    ),
    "targets.multilabel": Call(ufm.targets.multilabel, {"num_classes": 3, "samples": {1: 2}}),
    "targets.mixup": Call(ufm.targets.mixup, {"num_classes": 3, "samples": {0.5: 2}, "per_class": 2}),
    "targets.beta": Call(ufm.targets.beta, {"a": 1.0, "samples": 9, "points": 4}, {"a": {"1.5"}}),
    "targets.next_token": Call(
        ufm.targets.next_token, {"counts": [[1, 2]], "per_context": False}, {"counts": NESTED, "per_context": TRUE}
    ),
    "targets.of_samples": Call(ufm.targets.of_samples, {"Y": [[1.0]]}, {"Y": NESTED}),
    "geometry.simplex_etf": Call(ufm.geometry.simplex_etf, FRAME, FRAMED),
    "geometry.orthogonal_frame": Call(
        ufm.geometry.orthogonal_frame, {**FRAME, "centred": False}, FRAMED | {"centred": TRUE}
    ),
    "geometry.general_orthogonal_frame": Call(
        ufm.geometry.general_orthogonal_frame, {"norms": [1.0, 2.0], "dim": 4, "seed": 0}, FRAMED
    ),
    "geometry.orthoplex": Call(ufm.geometry.orthoplex, FRAME, FRAMED),
    "geometry.polygon": Call(ufm.geometry.polygon, FRAME, FRAMED),
    "geometry.gram_distance": Call(
        ufm.geometry.gram_distance, {"X": np.eye(1), "Y": np.eye(1)}, {"X": NESTED, "Y": NESTED}
    ),
    "geometry.one_vs_rest_distance": Call(ufm.geometry.one_vs_rest_distance, {"W": np.eye(3)}),
    "geometry.minimal_angle": Call(ufm.geometry.minimal_angle, {"W": np.eye(3)}),
    "plot.figure": Call(
        ufm.plot.figure,
        {"rows": 1, "columns": 1, "width": 2.0, "height": 2.0},
        {"width": {"1.5"}, "height": {"1.5"}},
    ),
    "plot.collapse": Call(
        ufm.plot.collapse,
        {
            "histories": {"a": HISTORY},
            "metrics": ["nc1", "nc2", "nc3", "nc4"],
            "unit": "step",
            "factors": {},
            "minima": {},
        },
        {"histories": EMPTY, "unit": TEXT, "factors": EMPTY | NONE, "minima": EMPTY | NONE},
    ),
    "plot.layers": Call(
        ufm.plot.layers,
        {"history": dataclasses.replace(HISTORY, layers=ufm.Metrics(*np.ones((12, 2, 3)))), "snapshots": 2},
    ),
    "plot.classes": Call(ufm.plot.classes, {"result": ufm.measure(H, LABELS, A, B, per_class=True)}),
    "plot.save": Call(ufm.plot.save, {"made": Figure(), "path": "file.png", "command": None}, {"command": TEXT | NONE}),
    "plot.write": Call(
        ufm.plot.write,
        {"made": Figure(), "path": "file.png", "data": {}, "command": None},
        {"data": EMPTY, "command": TEXT | NONE},
    ),
    "plot.save_data": Call(ufm.plot.save_data, {"arrays": {}, "path": "file"}, {"arrays": EMPTY, "path": NAME}),
    "console.show": Call(
        ufm.console.show,
        {"header": ["a"], "rows": [[1]], "caption": None},
        {"rows": {"[]"}, "caption": TEXT | NONE},
    ),
    "console.progress": Call(
        ufm.console.progress,
        {"total": 3, "unit": "steps", "show": False},
        {"total": {"0", "10**30"}, "unit": TEXT, "show": NONE | TRUE},
    ),
    "theory.registry.theorem": Call(
        register,
        {
            "name": "a",
            "paper": "b",
            "family": "d",
            "assumes": "c",
            "applies": len,
            "checks": len,
            "any_targets": False,
            "any_depth": False,
        },
        dict.fromkeys(("name", "paper", "family", "assumes"), NAME)
        | {"applies": FUNCTION, "checks": FUNCTION, "any_targets": TRUE, "any_depth": TRUE},
    ),
}


def parameters(function):
    """Names of a function's arguments; none where it has no signature of its own."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def public():
    """Names and arguments of what `ufm` offers, except what only traced code calls."""
    for name, thing in vars(ufm).items():
        if name.startswith("_") or not callable(thing):
            continue
        if name not in RECORDS:
            yield name, parameters(thing)
        if not inspect.isclass(thing):
            continue
        of_arrays = issubclass(thing, Loss | Constraint)
        for method, function in vars(thing).items():
            kind = classmethod if of_arrays else (classmethod | type(public))
            if isinstance(function, kind) and not method.startswith("_"):
                yield f"{name}.{method}", parameters(getattr(thing, method))
    for module in (ufm.console, ufm.geometry, ufm.plot, ufm.targets):
        for name, thing in vars(module).items():
            if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_"):
                yield f"{module.__name__.removeprefix('ufm.')}.{name}", parameters(thing)
    yield "metrics.evaluate", parameters(ufm.metrics.evaluate)
    yield "theory.factor", parameters(ufm.theory.factor)
    yield "theory.registry.theorem", parameters(registry.theorem)


OWN = {
    "plot.trace",
    "plot.terminal_phase",
    "plot.suffix",
    "plot.unmeasured",
    "Training.check_complete",
}  # which our own code calls


def test_every_public_function_is_in_the_table_with_all_its_arguments():
    expected = {name: set(words) for name, words in public() if words and name not in OWN}
    assert {name: set(call.words) for name, call in TABLE.items()} == expected


def fault(call, argument, kind, value):
    """What is wrong with the answer to a value; None where nothing is."""
    right = kind in call.right.get(argument, ())
    if right and call.compiles:
        return None
    try:
        call.of(**{**call.words, argument: value})
    except (ValueError, FileNotFoundError) as error:
        if right:
            return f"refused: {error}"
        return None if re.search(rf"\b{argument}\b", str(error)) else f"unnamed: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if right else "accepted"


ARGUMENTS = [f"{name}:{argument}" for name, call in TABLE.items() for argument in call.words]


@pytest.mark.parametrize("what", ARGUMENTS)
def test_an_argument_that_cannot_be_used_is_refused_by_name(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, _, argument = what.partition(":")
    answers = {kind: fault(TABLE[name], argument, kind, value) for kind, value in WRONG.items()}
    assert {kind: answer for kind, answer in answers.items() if answer} == {}

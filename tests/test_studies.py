import ast
import inspect
import pathlib
import types

import numpy as np
import pytest

import ufm
import ufm.plot
import ufm.training
from ufm.minima import solver
from ufm.theory import landscape

STUDIES = pathlib.Path(__file__).parents[1] / "studies"
FILES = sorted(STUDIES.rglob("*.py"))
# modules whose names without underscore are for everybody
PUBLIC = (ufm, ufm.console, ufm.geometry, ufm.metrics, ufm.plot, ufm.sweeps, ufm.theory, ufm.training)
PUBLIC = {module.__name__ for module in (*PUBLIC, landscape, solver)}
INTERNAL = {"products.py"}  # times what is internal
SHARED = {"handwriting", "networks", "benchmark"}


def used(file):
    """Dotted names of ufm that a file imports, or writes out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def is_public(name):
    """Whether a dotted name leads through public modules to a name without underscore."""
    here, *rest = name.split(".")
    if here != "ufm":
        return True
    thing = ufm
    for part in rest:
        if not isinstance(thing, types.ModuleType):
            return True  # what belongs to a public thing
        if part.startswith("_") or (thing.__name__ not in PUBLIC and f"{thing.__name__}.{part}" not in PUBLIC):
            return False
        thing = getattr(thing, part)
    return not isinstance(thing, types.ModuleType) or thing.__name__ in PUBLIC


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_studies_need_public_names_only(file):
    private = [name for name in used(file) if not is_public(name)]
    assert not private or file.name in INTERNAL


def test_private_names_are_known_as_such():
    names = "ufm.minimize", "ufm.Problem.init", "ufm.plot.trace", "ufm.training.schedule", "ufm.minima.solver.minimize"
    assert all(map(is_public, ("ufm", "numpy.linalg", *names)))
    for name in ("ufm._core.tables.table", "ufm.minima.optimum.minimize_all", "ufm.model.problem.risk", "ufm._core"):
        assert not is_public(name)


@pytest.mark.parametrize("name", [file.stem for file in STUDIES.glob("*.py") if file.stem not in SHARED])
def test_a_study_is_a_config_its_data_and_a_figure_of_them(study, name):
    module = study(name)
    assert list(inspect.signature(module.data).parameters) == ["config"]
    assert next(iter(inspect.signature(module.draw).parameters)) == "table"
    assert module.Config().output.name == f"{name}.png"


def test_collapse_collapses_in_all_three_settings(study, written):
    collapse = study("collapse")
    table = collapse.data(collapse.Config(num_classes=4, dim=8, per_class=10, steps=6000, rate_cross_entropy=1.0))
    assert list(table.problem.values) == ["cross-entropy", "squared error", "sphere"]
    last = table.isel(snapshot=-1)
    for metric in ("nc1", "nc2", "nc3"):
        assert (last[metric] < 1e-4).all()
    assert (last.nc4 == 0).all()
    out, arrays = written(collapse, table)
    assert "sphere, last" in out
    assert "jax" in str(arrays["versions"])


def test_collapse_says_so_when_it_diverges(study):
    collapse = study("collapse")
    config = collapse.Config(
        num_classes=3, dim=4, per_class=5, steps=2000, rate_cross_entropy=0.1, rate_squared_error=300.0
    )
    with pytest.raises(SystemExit, match=r"squared error: diverged"):
        collapse.data(config)


def test_weight_decay_has_two_phases(study, written, tmp_path):
    weight_decay = study("weight_decay")
    config = weight_decay.Config(num_classes=3, dim=4, per_class=5, points=6, store=tmp_path / "s.zarr")
    table = weight_decay.data(config)
    assert table.certified.all()
    assert (table.degenerate == (table.c > table.threshold)).all()
    np.testing.assert_allclose(table["value"], table.predicted, rtol=1e-9)
    again = weight_decay.data(config)  # what the store has
    assert (again["value"] == table["value"]).all()
    out, _ = written(weight_decay, table)
    assert "36" in out


def test_norms_held_in_any_way_collapse_and_their_minima_are_known(study, written):
    normalization = study("normalization")
    table = normalization.data(
        normalization.Config(num_classes=4, dim=8, per_class=6, steps=4000, rate=1.0, temperatures=4, ratios=3)
    )
    last = table.isel(snapshot=-1)
    assert (last.nc1 < 1e-5).all()
    assert (last.nc2 < 1e-2).all()
    assert (last.loss > table.minimum - 1e-6).all()
    assert (table.minimum_gap <= 1e-8 * table.minimum).all()
    np.testing.assert_allclose(
        table["value"], np.broadcast_to(table.predicted.values[None, :, None], (3, 4, 3)), rtol=1e-8
    )
    assert np.all(table.uneven_gap <= 1e-8 * table.uneven_value)
    rare = table.cosine.sel(group="rare").values
    np.testing.assert_allclose(rare[0], -1 / 3, atol=1e-6)
    np.testing.assert_allclose(rare[0], table.simplex_cosine, atol=1e-6)
    assert np.all(np.diff(rare) > 0.05)
    out, _ = written(normalization, table)
    assert "largest relative gap" in out


def test_rare_classes_merge_unless_the_classifier_is_forced(study, written):
    fixed_etf = study("fixed_etf")
    table = fixed_etf.data(
        fixed_etf.Config(num_classes=4, dim=6, samples=4000, lambda_A=1e-2, lambda_H=2.5e-4, ratios=5)
    )
    assert np.all(table.gap <= 1e-8 * table["value"])
    np.testing.assert_allclose(table.cosine.sel(classifier="forced"), -1 / 3, atol=1e-6)
    assert table.simplex_cosine == pytest.approx(-1 / 3)
    # minority collapse iff n_B ≤ N² λ_A λ_H
    merged = table.cosine.sel(classifier="learned") > 1 - 1e-6
    assert list(merged.values) == list(table.merged.values)
    assert set(merged.values) == {True, False}
    out, _ = written(fixed_etf, table)
    assert "rare cosine" in out


def slopes(problem, params, count=5, step=1e-4):
    """Derivatives of the objective in random directions of norm 1, by symmetric differences."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        directions = [random.normal(size=leaf.shape) for leaf in params[:3]]
        length = np.sqrt(sum(np.sum(each**2) for each in directions))
        ends = [
            ufm.Params(*(x + sign * step / length * each for x, each in zip(params, directions, strict=False)))
            for sign in (1, -1)
        ]
        found.append((problem.objective(ends[0]) - problem.objective(ends[1])) / (2 * step))
    return np.array(found)


def test_every_seed_reaches_the_minimum_and_every_other_critical_point_has_a_way_down(study, written):
    module = study("landscape")
    K, n, decay = 4, 5, 1e-2
    config = module.Config(
        num_classes=K, dim=4, per_class=n, lambda_A=decay, lambda_H=decay, seeds=2, steps=3000, rate=1.0
    )
    problem, table = module.problem_of(config), module.data(config)
    minimum = float(table.minimum)
    assert float(table.lower_bound) <= minimum == pytest.approx(ufm.predict(problem).value, rel=1e-9)
    assert np.all(table.loss[:, 0] > 1.1 * minimum)  # they begin near the saddle at zero
    np.testing.assert_allclose(table.loss[:, -1], minimum, rtol=1e-10)
    points = module.critical_points(problem)
    assert list(points) == list(table.point.values) == ["zero point", "rank 1", "rank 2", "2 groups"]
    for point in points.values():
        np.testing.assert_allclose(slopes(problem, point), 0.0, atol=1e-7)  # and of the difference's second order
    assert np.abs(slopes(problem, problem.init(0))).max() > 1e-3
    assert (table["value"] > minimum * (1 + 1e-3)).all()
    assert (table.measured < -1e-4).all()
    np.testing.assert_allclose(table.measured, table.predicted, rtol=1e-6)
    zero = table.sel(point="zero point")  # log K, and λ − √n/N: −∂(risk)/∂Z is (1/N)(I − J/K), its rows n times each
    assert zero["value"] == pytest.approx(np.log(K))
    assert zero.measured == pytest.approx(decay - np.sqrt(n) / (K * n), rel=1e-6)
    out, arrays = written(module, table)
    assert "2 seeds end within" in out
    assert {"minimum", "lower_bound", "step"} <= set(arrays)

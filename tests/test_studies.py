import ast
import dataclasses
import inspect
import pathlib
import re
import types

import jax
import numpy as np
import pytest

import ufm
import ufm.plot
import ufm.training
from ufm.minima import solver
from ufm.theory import (
    deep_linear,
    deep_relu,
    imbalanced_cross_entropy,
    landscape,
    next_tokens,
    regression,
    seli,
    symmetric_designs,
)

STUDIES = pathlib.Path(__file__).parents[1] / "studies"
FILES = sorted(STUDIES.rglob("*.py"))
# modules whose names without underscore are for everybody
PUBLIC = (ufm, ufm.console, ufm.geometry, ufm.metrics, ufm.plot, ufm.sweeps, ufm.targets, ufm.theory, ufm.training)
PUBLIC = {module.__name__ for module in (*PUBLIC, deep_linear, deep_relu, landscape)}
PUBLIC |= {module.__name__ for module in (next_tokens, regression, symmetric_designs, solver)}
PUBLIC |= {module.__name__ for module in (imbalanced_cross_entropy, seli)}
INTERNAL = {"products.py"}  # times what is internal
SHARED = {"handwriting", "networks", "flows", "benchmark"}


def used(file):
    """Dotted names of ufm that a file imports, or writes out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"[\w.]+", ast.unparse(node)):
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
    assert (abs(last.excess) < 1e-10).all()
    assert (table.gap <= 1e-8 * table.minimum).all()
    assert np.isfinite(table.factor).all("metric").values.tolist() == [
        True,
        True,
        False,
    ]  # theory leaves the sphere open
    dashed = [sum(line.get_linestyle() == "--" for line in axis.get_lines()) for axis in collapse.draw(table).axes]
    assert dashed[0] == 2
    assert dashed[3:5] == [0, 0]
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


def test_features_of_sets_are_those_of_their_labels_unless_counts_within_a_size_differ(study, written):
    multilabel = study("multilabel")
    table = multilabel.data(
        multilabel.Config(num_classes=5, samples=(2, 1, 1), dim=6, smallest=1e-2, points=3, ratios=2)
    )
    for name in ("factor", "norm", "cosine", "stray"):
        np.testing.assert_allclose(table[name], table[f"predicted/{name}"], rtol=1e-7)
    assert int(table.claims_held.sum()) == int(table.claims.sum()) > 0
    designs, others = table.triples.values[:2], table.triples.values[2]
    for kind in ("inside", "outside"):  # 35 triples and the seven lines of the Fano plane have two cosines, others more
        found = table[kind].sel(triples=designs).values
        np.testing.assert_allclose(found[np.isfinite(found)], float(table[f"predicted/{kind}"]), atol=1e-7)
        assert np.ptp(table[kind].sel(triples=others).dropna(f"{kind}_index").values) > 1e-2
    np.testing.assert_allclose(table.eigenvalue.sel(triples=designs), 1.0, atol=1e-7)
    assert float(table.eigenvalue.sel(triples=others).max()) > 1.2
    equal, unequal = table.distance.sel(ratio=1), table.distance.sel(ratio=100)
    assert (equal < 1e-7).all()
    assert list(unequal > 1e-2) == [True, True, False]  # labels, one pair; and all labels against all pairs
    out, _ = written(multilabel, table)
    assert "probability outside" in out


def test_the_fano_plane_is_a_design_and_neighbours_are_none(study):
    multilabel = study("multilabel")
    for sets, shared in ((multilabel.LINES, {1}), (multilabel.NEIGHBOURS, {0, 1, 2})):
        rows = np.array([[k in triple for k in range(7)] for triple in sets], int)
        assert set((rows.T @ rows)[~np.eye(7, dtype=bool)]) == shared  # sets that two labels share


@pytest.mark.parametrize("samples", [(), (2, 1, 1)])
def test_sets_of_all_labels_or_of_none_are_refused(study, samples):
    with pytest.raises(ValueError, match=r"samples = .*num_classes = 3"):
        study("multilabel").Config(num_classes=3, samples=samples)


def test_mixed_features_lie_in_a_channel_or_on_the_segment(study, written):
    mixup = study("mixup")
    table = mixup.data(mixup.Config(num_classes=3, mixed=(0.5, 0.9), dim=6, smallest=0.03, points=3, drawn=2))
    assert int(table.claims_held.sum()) == int(table.claims.sum()) > 0
    np.testing.assert_allclose(np.sort(table.lam), [0, 0.1, 0.5, 0.9, 1], atol=1e-15)
    for name in ("along", "across", "difference"):  # theory's curves are fine enough to be read between their points
        curves = table[f"predicted/{name}"].interp(curve=table.lam[1:-1].values).values
        np.testing.assert_allclose(table[name].isel(lam=slice(1, -1)), curves, atol=1e-3)
    assert mixup.off_segment(table.sel(loss="squared error")) < 1e-7
    middle = (table.across.sel(lam=0.5) / (2 * table.across.isel(lam=-1))).sel(loss="cross-entropy")
    assert np.all(np.diff(middle) < 0)
    assert 0.5 < float(middle[-1]) < float(middle[0]) < 1
    assert float(table["further/across"].max()) > float(table.across.max())
    out, _ = written(mixup, table)
    assert "distance from the segment" in out


@pytest.mark.parametrize("changes", [{"num_classes": 2}, {"mixed": (0.4,)}, {"mixed": (1.0,)}, {"mixed": ()}])
def test_mixtures_without_a_plane_or_of_one_class_are_refused(study, changes):
    with pytest.raises(ValueError, match="at least 3 classes, and λ from ½"):
        study("mixup").Config(**changes)


def test_a_perceptron_regresses_as_the_model_does(study, written):
    module = study("regression")
    config = module.Config(dim=6, points=5, trained=(0.1, 0.6), widths=(64, 64), steps=6000, snapshots=4)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes its counts with floats
        table = module.data(config)
    assert int(table.claims_held) == int(table.claims) > 0
    np.testing.assert_allclose(table.eigenvalue, table["predicted/eigenvalue"], atol=1e-10)
    np.testing.assert_allclose(table.residual, table["predicted/residual"], rtol=1e-8)
    end = table.isel(step=-1)
    assert (end.objective > table.minimum * (1 - 1e-9)).all()
    assert (end.objective < table.minimum * (1 + 1e-5)).all()
    for name in ("nrc1", "nrc2", "nrc3"):
        assert (end[name] < 1e-4).all()
    expected = np.maximum(table.deviation - table.trained, 0.0).transpose("trained", "direction")
    assert list((expected > 0).sum("direction")) == [3, 2]
    np.testing.assert_allclose(table.trained_eigenvalue, expected, atol=1e-3)
    out, _ = written(module, table)
    assert "excess over the minimum" in out


def test_next_tokens_have_the_texts_odds_and_rare_ones_merge(study, written):
    module = study("next_token")
    table = module.data(module.Config(smallest=0.1, points=2, near=4))
    assert int(table.claims_held) == int(table.claims) > 0
    assert (table.distance <= table.price * (1 + 1e-6)).all()
    assert np.all(np.diff(table.direction) > 0)  # ĉ ascends
    assert_merging(module, table)
    out, _ = written(module, table)
    assert "rare nouns merge" in out


def test_tokens_merge_alike_where_the_features_of_each_occurrence_decay(study):
    module = study("next_token")
    config = module.Config(near=4)
    counts = module.bigrams(module.text(config), module.vocabulary())
    assert_merging(module, module.where_tokens_merge(config, ufm.targets.next_token(counts)))


def assert_merging(module, table):
    """Differences of probabilities are theory's, and rare nouns merge at less decay."""
    assert float(table.merging.sel(standing="rare")) < float(table.merging.sel(standing="common"))
    for standing in module.PAIRS:
        at = table.sel(standing=standing)
        np.testing.assert_allclose(at.surplus, module.predicted_surplus(at, table.near.values), atol=1e-6)


def test_the_flow_turns_to_the_largest_margin_and_networks_collapse_where_kernels_separate(study, written):
    module = study("max_margin")
    table = module.data(module.Config(points=12, per_ring=30, widths=(32, 16, 4), decay=3e-3, epochs=1000, pixels=16))
    assert all(off < 1e-6 for off in module.differences(table).values())
    assert (table.gap < 1e-8).all()
    late = table.isel(log_time=slice(-4, None))
    assert (late.margin.diff("log_time") > 0).all()
    assert (late.margin > 0.9).all()
    assert (late.margin <= 1).all()
    end = table.isel(log_time=-1)
    np.testing.assert_allclose(end.angle, end.predicted_angle, rtol=0.03)
    np.testing.assert_allclose(end.loss_scaled, 1.0, atol=0.03)  # less by log log t/log t
    np.testing.assert_allclose(end.loss_scaled.sel(classes="balanced"), end.simplex_loss_scaled[0], rtol=2e-3)
    wide = end.sel(room="d > K − 1")
    np.testing.assert_allclose(wide.trace_ratio, wide.predicted_ratio, rtol=0.05)
    assert (wide.nc1 < 1e-3 * wide.trace_ratio).all()  # which sees what lies in the span of the means alone
    right = table.right
    assert float(right.sel(rule="linear")) < 0.6
    assert (right.isel(rule=slice(1, None)) > 0.95).all()
    ratio = table["features/trace_ratio"]
    assert float(ratio.sel(rule="network")) < 0.1 * float(ratio.sel(rule=list(module.KERNELS)).min())
    out, _ = written(module, table)
    assert "two classes, free bias" in out


@pytest.mark.parametrize("changes", [{"wide": 3}, {"decades": 1.0}, {"decades": 301.0}])
def test_flows_of_too_few_dimensions_or_beyond_doubles_are_refused(study, changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} = .* needed"):
        study("max_margin").Config(**changes)


def test_bigrams_are_those_of_a_text_in_a_circle_whatever_its_order(study):
    module = study("next_token")
    counts = module.bigrams(["a", "b", "a", "a", "c"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    first, other = (module.bigrams(module.text(module.Config(seed=seed)), module.vocabulary()) for seed in (0, 1))
    assert np.array_equal(first, other)
    assert np.array_equal(first.sum(axis=0), first.sum(axis=1))


def test_every_optimiser_collapses_but_adamw_which_minimises_the_risk_in_a_box(study, written):
    module = study("optimizers")
    sizes = {"steps": 800, "rates": 4, "boxes": 1, "epsilons": 2, "fixed_steps": 6000, "seeds": 1}
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes its counts with floats
        table = module.data(module.Config(dim=3, per_class=2, lambda_A=2e-2, lambda_H=2e-2, **sizes))
    steps = np.array([module.speed(table.sel(optimizer=name)) for name in table.optimizer.values])
    assert list(table.optimizer.values[np.isnan(steps).all(axis=1)]) == ["AdamW"]
    assert module.collapsed_at(table.lbfgs_step.values, table.lbfgs_nc1.values) < np.nanmin(steps)
    least = table.excess.min("rate")
    assert float(least.sel(optimizer="AdamW")) > 0.1
    assert (least.sel(optimizer=["heavy ball", "Adam"]) < 1e-9).all()
    out, _ = written(module, table)
    assert "AdamW's own problem" in out


def test_remedies_of_a_long_tail_end_at_the_minima_of_their_losses(study, written):
    module = study("long_tail")
    network = module.Architecture(widths=(64, 16), linear=True)
    config = module.Config(network=network, epochs=1000, seeds=1)
    table = module.data(config)
    assert (table.gap <= 1e-8 * table["value"]).all()
    assert (table.excess > -1e-6).all()  # float32; a bound from below on any network
    assert (table.excess < 0.05).all()
    at = table.sel(seed=0)
    assert float(np.abs(at.ratio_A / at["predicted/ratio_A"] - 1).max()) < 0.35
    # offsets of logits change the bias alone, of plain cross-entropy and of one with temperatures
    for name in (f"predicted/{part}" for part in module.GEOMETRY):
        for moved, plain in (("logit adjustment", "cross-entropy"), ("VS", "CDT")):
            np.testing.assert_allclose(table[name].sel(remedy=moved), table[name].sel(remedy=plain), rtol=1e-5)
    said = table["predicted/cosine"]
    order = [float(said.sel(remedy=name)) for name in ("CDT", "cross-entropy", "weights 1/n", module.FIXED)]
    assert np.all(np.diff(order) < -0.05)
    np.testing.assert_allclose(order[-1], -1 / 9, rtol=1e-12)
    assert (at.rare.sel(remedy=["weights 1/n", "logit adjustment"]) > at.rare.sel(remedy="cross-entropy") + 0.1).all()
    out, _ = written(module, table)
    assert "a ratio of 140 to 1; 346 in all" in out


def test_a_long_tail_has_its_counts_and_is_tested_in_balance(study):
    module = study("long_tail")
    counts = module.counts_of(module.Config())
    first, other = (module.long_tail(counts, seed) for seed in (0, 1))
    for digits in (first, other):
        np.testing.assert_array_equal(digits.labels, np.repeat(np.arange(10), counts))
        assert len(set(np.bincount(digits.labels_test))) == 1
        assert np.bincount(digits.labels_test)[0] >= 34
    assert len(np.unique(np.concatenate([first.X, first.X_test]), axis=0)) == len(first.X) + len(first.X_test)


def test_slopes_orders_and_the_central_path_are_theorys(study, written):
    module = study("dynamics")
    sizes = {"steps": 1500, "grid": 2, "trained": 1, "trained_steps": 20_000, "decades": 3.0}
    table = module.data(module.Config(dim=5, per_class=3, **sizes))
    for name in table.optimizer.values:
        for metric in module.METRICS:
            at = table.sel(optimizer=name, metric=metric)
            found = module.slope(table.step.values, at.course.values, module.POWERS[metric])
            assert found == pytest.approx(np.log(float(at.factor)), rel=1e-3)
    assert int(table.claims_failed) == 0
    seen, known = (module.last(np.log(-table[name].values), 0.1) for name in ("slope", "predicted_slope"))
    assert (seen == known).all()
    assert module.off_path(table).max() < 1e-6
    assert module.off_loss(table, 4).max() < 1e-6
    out, _ = written(module, table)
    assert "central path" in out


def test_rare_classes_merge_and_vanish_where_theory_says_under_decay_and_within_balls(study, written):
    module = study("imbalance")
    sizes = {"num_classes": 5, "frequent": (3,), "largest": 300.0, "ratios": 4, "samples": 10**6, "decades": 7}
    config = module.Config(decay=1.5e-4, mean_squares=(1.5, 0.4), **sizes)
    table = module.data(config)
    for name in ("value", "norm", "cosine"):
        np.testing.assert_allclose(table[name], table[f"predicted/{name}"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(table["value"], table["predicted/value"], rtol=1e-9)
    at = table.sel(frequent=3)
    by_counts, by_weights = (
        at.merging.sel(model=model) / at["predicted/merging"].sel(model=model) for model in module.MODELS
    )
    assert by_counts == pytest.approx(1, abs=3 * float(at.merging.sel(model="decay")) / config.samples)  # whole numbers
    assert by_weights == pytest.approx(1, abs=1e-6)
    below, above = at.cosine_beside.transpose("side", "model").values
    assert (below < 1 - 1e-5).all()
    np.testing.assert_allclose(above, 1.0, atol=1e-9)
    below, above = at.norm_beside.transpose("side", "model").values
    assert (below > 1e-3).all()
    np.testing.assert_allclose(above, 0.0, atol=1e-7)
    assert_seli_is_met(table)
    out, _ = written(module, table)
    assert "R at which they vanish" in out


def assert_seli_is_met(table):
    """Errors fall; what a decade adds comes as near as it is known to, with c at the decade's lower end."""
    assert (table.direction.diff("price") < 0).all()
    off = np.abs(table.angle - table["predicted/angle"]).max("pair").sel(price=[1e-3, 1e-5, 1e-7], method="nearest")
    assert (off.diff("price") < 0).all()
    scaled = (table.added * np.log(table.price) ** 2).sel(price=[1e-4, 1e-5, 1e-6, 1e-7], method="nearest")
    np.testing.assert_allclose(scaled, [0.995, 0.995, 1.037, 1.075], atol=6e-4)


def test_mean_balls_see_counts_and_weights_by_their_product_alone(study):
    module = study("imbalance")
    weighted = module.within_balls(module.Config(num_classes=5, mean_squares=(1.5, 1.0)), 3, 4.0)
    counted = dataclasses.replace(weighted, per_class=(8, 8, 8, 2, 2), class_weights=None)
    first, other = (ufm.minimize(problem) for problem in (weighted, counted))
    assert first.value == pytest.approx(other.value, rel=1e-9)
    np.testing.assert_allclose(first.A @ first.A.T, other.A @ other.A.T, atol=1e-6)


def test_what_remedies_change_of_long_tailed_counts(study, written):
    module = study("long_tailed_counts")
    sizes = {"num_classes": 4, "samples": 10, "points": 2, "shown": 2.0, "shrinkage": 1.2}
    table = module.data(module.Config(tail=(9, 4, 1), prices=4, **sizes))
    assert (table.gap < 1e-8).all()
    assert (table.dying_gap < 1e-8).all()
    equal, tailed = table.isel(power=0), table.isel(power=1)
    np.testing.assert_allclose(equal.cosine, np.broadcast_to(np.eye(4) * 4 / 3 - 1 / 3, (12, 4, 4)), atol=1e-6)
    assert (equal["rank"] == 3).all()
    # offsets of logits are the bias's business where it is free, b → b − ι up to a constant
    free, adjusted = (tailed.sel(remedy=name) for name in ("free bias", "adjustment, free bias"))
    np.testing.assert_allclose(adjusted.norm, free.norm, atol=1e-7)
    counts = module.counts_of(module.Config(**sizes), 2.0)
    assert counts.tolist() == [10, 2, 1, 1]
    np.testing.assert_allclose(adjusted.bias - free.bias, np.log(counts).mean() - np.log(counts), atol=1e-7)
    # the last two classes have one sample each, and merge iff w Δ √n ≤ N c
    known = tailed.reach[:, -1].drop_vars("class").dropna("remedy")
    merged = known <= float(table.threshold)
    np.testing.assert_array_equal(tailed.cosine.sel(remedy=known.remedy)[:, -2, -1] > 1 - 1e-9, merged)
    assert set(merged.values) == {True, False}
    assert np.ptp(tailed.reach.sel(remedy="weights 1/√n").values) < 1e-12
    fixed = tailed.sel(remedy="fixed ETF")
    np.testing.assert_allclose(fixed.norm, fixed["predicted/norm"], rtol=1e-6)
    np.testing.assert_allclose(table.square, table["predicted/square"], atol=1e-9)
    out, _ = written(module, table)
    assert "with a free bias" in out

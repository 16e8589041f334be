"""Hidden layers between features and classifier: the model, its training, and the metrics of every layer."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from zoo import problem

import ufm
from ufm import plot
from ufm._core import blocks
from ufm.hessian import DENSE_UP_TO
from ufm.metrics.layers import Network, readers_of
from ufm.model.layers import ACTIVATIONS
from ufm.model.params import Params, columns
from ufm.model.problem import risk
from ufm.model.streamed_loss import logits

WIDTHS = {"widths": (6, 5), "lambda_W": (2e-2, 3e-3)}
DEEP = {
    "linear": problem(**WIDTHS),
    "relu": problem(**WIDTHS, activation="relu"),
}
SOFT = ufm.Targets(rows=[[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]], counts=[3, 4, 5, 3])
each_activation = pytest.mark.parametrize("kind", DEEP)
STEPS = {"steps": 12, "snapshots": 4, "precision": "float64"}


def through(p, params):
    """H and each hidden layer's features, one sample a row."""
    found = [np.asarray(params.H)]
    for W in params.W:
        X = found[-1] @ np.asarray(W).T
        found.append(np.maximum(X, 0.0) if p.activation == "relu" else X)
    return found


def plainly(p, params):
    """The objective of a cross-entropy, written out."""
    Z = through(p, params)[-1] @ params.A.T + params.b
    risk = np.mean(np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(Z)), p.labels])
    sizes = [(p.lambda_H, params.H), (p.lambda_A, params.A), (p.lambda_b, params.b), *zip(p.lambda_W, params.W)]  # noqa: B905
    return risk + sum(decay / 2 * np.sum(part**2) for decay, part in sizes)


def moved(params, seed=0):
    """Parameters with a bias."""
    return params._replace(b=np.random.default_rng(seed).normal(size=len(params.b)))


@each_activation
def test_the_objective_is_what_it_says(kind):
    p = DEEP[kind]
    params = moved(p.init(seed=1, scale=2.0))
    assert [W.shape for W in params.W] == [(6, 4), (5, 6)]
    assert params.A.shape == (3, 5)
    assert_allclose(p.objective(params), plainly(p, params), rtol=1e-14)
    with jax.enable_x64(True):
        assert_allclose(jax.jit(p.objective)(params), plainly(p, params), rtol=1e-14)


@each_activation
def test_the_gradient_is_the_objective_s_slope_in_every_factor(kind):
    p = DEEP[kind]
    params, way = moved(p.init(seed=1)), moved(p.init(seed=2), seed=1)
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(p.objective))(params)
    step = 1e-6
    for name in ("H", "A", "b", "W"):
        along = jax.tree.map(np.zeros_like, params)._replace(**{name: getattr(way, name)})
        ahead, behind = (jax.tree.map(lambda x, d, s=sign: x + s * step * d, params, along) for sign in (1, -1))
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), gradient, along)))
        assert_allclose((plainly(p, ahead) - plainly(p, behind)) / (2 * step), slope, rtol=1e-7)


@each_activation
def test_blocks_of_samples_give_the_same_value_and_gradient(kind, monkeypatch):
    p = DEEP[kind]
    with jax.enable_x64(True):
        at = jax.tree.map(jnp.asarray, columns(moved(p.init(seed=1))))
        whole = jax.value_and_grad(risk, argnums=1)(p, at)
        monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 24)  # four samples of the widest layer
        jax.tree.map(lambda one, other: assert_allclose(one, other, atol=1e-14), whole, _streamed(p, at))


def _streamed(p, at):
    text = str(jax.make_jaxpr(lambda at: risk(p, at))(at))
    assert "scan" in text
    return jax.value_and_grad(risk, argnums=1)(p, at)


def test_without_widths_it_is_the_shallow_model():
    plain, none = problem(), problem(widths=(), lambda_W=None)
    assert repr(plain) == repr(none)
    assert jax.tree.structure(plain) == jax.tree.structure(none)
    assert len(jax.tree.leaves(plain)) == len(jax.tree.leaves(problem(**WIDTHS))) - 2
    assert plain.init(seed=3).W == ()
    assert not {"widths", "lambda_W", "activation"} & set(plain._to_file())  # stores of sweeps go on
    runs = [ufm.train(p, optax.sgd(0.5), **STEPS) for p in (plain, none)]
    jax.tree.map(assert_array_equal, *((run.params, run.history) for run in runs))
    assert runs[0].history.layers is None
    assert "layer" not in runs[0].to_xarray().dims


def test_a_layer_of_ones_that_is_not_priced_changes_no_logit():
    deep, shallow = problem(widths=(4,), lambda_W=0.0), problem()
    at = shallow.init(seed=0)
    for activation in ("linear", "relu"):
        H = abs(at.H)  # which relu leaves as they are
        found = problem(widths=(4,), lambda_W=0.0, activation=activation).objective(at._replace(H=H, W=(np.eye(4),)))
        assert_allclose(found, shallow.objective(at._replace(H=H)), rtol=1e-15)
    assert deep.factors()[1].decay == 0.0


@each_activation
def test_logits_are_those_of_one_layer_after_the_other_whatever_the_order_of_products(kind):
    p = DEEP[kind]
    params = moved(p.init(seed=0))
    Z = through(p, params)[-1] @ params.A.T + params.b
    assert_allclose(logits(p, columns(params)).T, Z, rtol=1e-12)
    formed = jax.make_jaxpr(lambda params: logits(p, params))(columns(params)).eqns
    # linear layers are multiplied before they meet the samples
    assert any(eqn.outvars[0].aval.shape == (6, p.num_samples) for eqn in formed) == (kind == "relu")


def test_initial_rows_have_the_norm_of_the_scale():
    p = problem(num_classes=50, dim=400, per_class=2, widths=(300, 200))
    for scale in (1.0, 3.0):
        params = p.init(seed=0, scale=scale)
        for matrix in (params.H, *params.W, params.A):
            assert_allclose(np.mean(np.sum(matrix**2, axis=1)), scale**2, rtol=0.05)


def deep_linear_value(K, n, decays):
    """The minimum of balanced linear layers, squared error and no bias (Dang et al. 2023, in the units of ufm)."""
    L, c = len(decays), (math.prod(decays) * n) ** (1 / len(decays))

    def value(x):
        return (1 - x) ** 2 / 2 + L / 2 * K * c * x ** (2 / L)

    return min(0.5, float(minimize_scalar(value, bounds=(0.5, 1.0), method="bounded", options={"xatol": 1e-10}).fun))


@pytest.mark.parametrize("decays", [(1e-2, 2e-2, 1e-2), (5e-3, 1e-2, 2e-2, 1e-2)], ids=["three", "four"])
def test_training_from_a_large_point_ends_at_the_minimum_of_the_theory(decays):
    lambda_H, *lambda_W, lambda_A = decays
    widths = (6, 5)[: len(lambda_W)]
    words = {"widths": widths, "lambda_W": lambda_W, "lambda_A": lambda_A, "lambda_H": lambda_H / 5}
    p = problem(num_classes=4, loss=ufm.SquaredError(), bias=False, **words)
    predicted = deep_linear_value(4, 5, (lambda_H / 5, *lambda_W, lambda_A))
    assert predicted < 0.4
    start, optimizer = p.init(seed=0, scale=1.5), optax.sgd(0.1, momentum=0.9)
    run = ufm.train(p, optimizer, steps=20_000, snapshots=3, params=start, precision="float64")
    assert_allclose(run.history.loss[-1], predicted, rtol=1e-9)
    # balanced: equal singular values, as large as the decays say
    sizes = [decay * np.sum(part**2) for decay, part in zip(lambda_W, run.params.W, strict=True)]
    assert_allclose([*sizes, lambda_A * np.sum(run.params.A**2)], p.lambda_H * np.sum(run.params.H**2), rtol=1e-4)
    assert np.all(run.history.layers.nc1[-1] < 1e-6)


def test_several_seeds_are_those_alone_and_a_run_is_resumed():
    p = DEEP["relu"]
    runs = ufm.train(p, optax.sgd(0.2, momentum=0.5), seed=[0, 1], **STEPS)
    assert runs.history.layers.nc1.shape == (2, 4, 3)
    for i in (0, 1):
        alone = ufm.train(p, optax.sgd(0.2, momentum=0.5), seed=i, **STEPS)
        jax.tree.map(lambda one, other: assert_allclose(one, other, rtol=1e-8), runs[i].params, alone.params)
        assert_allclose(runs[i].history.layers.nc2, alone.history.layers.nc2, rtol=1e-6)
    again = ufm.train(p, optax.sgd(0.2, momentum=0.5), resume=runs, **STEPS)
    given = ufm.train(p, optax.sgd(0.2, momentum=0.5), params=runs.params, seed=[0, 1], **STEPS)
    assert_array_equal(again.history.loss[:, 0], runs.history.loss[:, -1])
    assert_array_equal(given.history.loss[:, 0], runs.history.loss[:, -1])


@each_activation
def test_metrics_of_layers_are_those_that_measure_gives(kind):
    p = DEEP[kind]
    run = ufm.train(p, optax.sgd(0.2), steps=60, snapshots=3, precision="float64")
    params, layers = run.params, run.history.layers
    X = through(p, params)
    readers = [params.A @ params.W[1] @ params.W[0], params.A @ params.W[1], params.A]
    found = ufm.measure(X, p.labels, readers if kind == "linear" else params.A, params.b)
    decisions = np.argmax(X[-1] @ params.A.T + params.b, axis=1)
    for at, H in enumerate(X):
        alone = ufm.measure(
            H, p.labels, readers[at] if kind == "linear" else None, params.b if kind == "linear" else None
        )
        for name, value in alone.known():
            assert_allclose(getattr(layers, name)[-1, at], value, rtol=1e-8, atol=1e-12)
            assert_allclose(getattr(found, name)[at], value, rtol=1e-8, atol=1e-12)
        means = np.stack([H[p.labels == k].mean(axis=0) for k in range(3)])
        nearest = np.argmin(np.sum((H[:, None] - means[None]) ** 2, axis=2), axis=1)
        assert layers.nc4[-1, at] == found.nc4[at] == np.mean(nearest != decisions)
        assert layers.accuracy[-1, at] == found.accuracy[at] == np.mean(decisions == p.labels)
    for name, value in run.history.metrics.known():  # what the classifier reads
        assert_array_equal(getattr(layers, name)[:, -1], value)


def test_a_layer_s_classifier_is_the_mean_gradient_of_each_class_s_logit():
    p = DEEP["relu"]
    params, labels = p.init(seed=4), p.labels
    X = [x.T for x in through(p, params)]
    found = readers_of(X, labels, 3, Network(params.W, params.A, params.b, ACTIVATIONS["relu"].passes))

    def logit(x, first, k):
        for W in params.W[first:]:
            x = jnp.maximum(W @ x, 0.0)
        return (params.A @ x)[k]

    with jax.enable_x64(True):
        for first, reader in enumerate(found):
            slopes = [jax.grad(logit)(jnp.asarray(x), first, k) for x, k in zip(X[first].T, labels, strict=True)]
            mean = [np.mean([g for g, y in zip(slopes, labels, strict=True) if y == k], axis=0) for k in range(3)]
            assert_allclose(reader, mean, atol=1e-14)


def test_groups_that_are_no_classes_have_layers_too():
    p = ufm.Problem(targets=SOFT, dim=4, **WIDTHS)
    run = ufm.train(p, optax.sgd(0.2), **STEPS)
    assert run.history.layers.nc1.shape == (4, 3)
    assert np.all(np.isfinite(run.history.layers.nc1))
    assert_array_equal(run.history.layers.nc1[:, -1], run.history.nc1)
    assert_array_equal(run.history.layers.accuracy, np.repeat(run.history.accuracy[:, None], 3, axis=1))


def test_layers_of_a_network_without_classifier_and_with_absent_classes():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], 5)
    X = [random.normal(size=(15, d)) for d in (2, 7)]
    A, b = random.normal(size=(4, 7)), random.normal(size=4)
    found = ufm.measure(X, labels, A, b, absent="drop")
    last = ufm.measure(X[1], labels, A, b, absent="drop")
    assert [getattr(found, name)[1] for name in ufm.Metrics._fields] == [*last]
    assert np.isnan(found.nc3[0])
    assert found.accuracy[0] == found.accuracy[1] == last.accuracy
    bare = ufm.measure(X, np.repeat([0, 1, 2], 5))
    assert bare.nc3 is None
    assert bare.nc4 is None
    assert_allclose(bare.nc1, [ufm.measure(H, np.repeat([0, 1, 2], 5)).nc1 for H in X])
    for words in ({"means": np.eye(3)}, {"per_class": True}, {"A": [A, A, A]}, {"A": [None, A[:, :2]]}):
        with pytest.raises(ValueError, match=r"A of|means with|H of several"):
            ufm.measure(X, np.repeat([0, 1, 2], 5), **{"A": None, **words})
    with pytest.raises(ValueError, match="labels"):
        ufm.measure([X[0], X[1][:-1]], labels, absent="drop")


@pytest.mark.parametrize(("kind", "collapsed"), [("linear", True), ("relu", False), ("relu", True)])
def test_the_smallest_curvature_is_that_of_the_whole_hessian(kind, collapsed):
    p = DEEP[kind]
    params = moved(p.init(seed=0))
    if collapsed:
        params = params._replace(H=params.H[::5][p.labels])
    with jax.enable_x64(True):
        x, back = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, params))
        assert len(x) <= DENSE_UP_TO
        values, _ = np.linalg.eigh(np.asarray(jax.jit(jax.hessian(lambda x: p.objective(back(x))))(x)))
    found = ufm.curvature(p, params)
    assert_allclose(found.smallest, values[0], rtol=1e-9)
    along = np.concatenate([np.ravel(part) for part in jax.tree.leaves(found.direction)])
    assert_allclose(np.linalg.norm(along), 1.0, rtol=1e-12)
    assert [W.shape for W in found.direction.W] == [(6, 4), (5, 6)]


def test_a_run_is_saved_and_read_as_it_was(tmp_path):
    run = ufm.train(DEEP["relu"], optax.sgd(0.2), **STEPS)
    run.save(tmp_path / "run.npz")
    read = ufm.load(tmp_path / "run.npz")
    assert repr(read) == repr(run)
    assert read.problem.widths == (6, 5)
    assert read.problem.lambda_W == (2e-2, 3e-3)
    jax.tree.map(assert_array_equal, (read.params, read.history), (run.params, run.history))
    table = run.to_xarray()
    assert table.layer_nc1.dims == ("snapshot", "layer")
    assert_array_equal(table.layer_nc3, run.history.layers.nc3)
    assert json.loads(table.attrs["problem"])["fields"]["activation"] == "relu"


TRAINING = ufm.Training(optax.sgd, {"learning_rate": 0.2}, **STEPS)


def test_sweeps_over_depth_are_the_runs_one_by_one(tmp_path):
    over = {"widths": [(), (6,), (6, 5)], "lambda_A": [1e-2, 1e-3]}
    table = ufm.sweep(problem(), over, run=TRAINING, params=True, store=tmp_path / "s.zarr")
    assert table.widths.values.tolist() == ["none", "6", "6,5"]
    for i, widths in enumerate(over["widths"]):
        p = problem(widths=widths, lambda_A=1e-3)
        run, point = ufm.train(p, optax.sgd(0.2), **STEPS), table.isel(widths=i, lambda_A=1)
        assert_allclose(point.loss, run.history.loss, rtol=1e-12)
        assert_allclose(point.A.values[:, : (4, *widths)[-1]], run.params.A, rtol=1e-9)
        for j, W in enumerate(run.params.W):
            assert_allclose(point[f"W{j}"].values[: W.shape[0], : W.shape[1]], W, rtol=1e-9)
        known = np.isfinite(point.layer_nc1.values).all(axis=0)
        assert known.tolist() == [j <= len(widths) and len(widths) > 0 for j in range(3)]
        if widths:
            assert_allclose(point.layer_nc1.values[:, known], run.history.layers.nc1, rtol=1e-9)
    assert xarray.open_zarr(tmp_path / "s.zarr").layer_nc2.dims == ("widths", "lambda_A", "snapshot", "layer")


def test_sweeps_over_decays_and_activations():
    over = {"lambda_W": [1e-2, (1e-3, 1e-2)], "activation": ["linear", "relu"]}
    table = ufm.sweep(problem(widths=(6, 5)), over, run=TRAINING)
    assert table.loss.shape == (2, 2, 4)
    assert len(np.unique(table.loss.values[..., -1])) == 4
    for name, value in (("widths", [(0,)]), ("activation", ["tanh"]), ("lambda_W", [(1e-2,)])):
        with pytest.raises(ValueError, match=name):
            ufm.sweep(problem(widths=(6, 5)), {name: value}, run=TRAINING)


def test_decays_of_layers_are_traced():
    traced = []

    @jax.jit
    def value(p, params):
        traced.append(p.widths)
        return p.objective(params)

    params = DEEP["linear"].init(seed=0)
    values = [float(value(problem(widths=(6, 5), lambda_W=(decay, 1e-3)), params)) for decay in (1e-3, 1e-2, 1e-1)]
    assert traced == [(6, 5)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"widths": (6, 0)}, r"widths\[1\] = 0"),
        ({"widths": 6}, "widths = 6: a tuple"),
        ({"widths": (6, 5), "lambda_W": (1e-2,)}, "lambda_W = .*2 of them"),
        ({"widths": (6, 5), "lambda_W": (1e-2, -1.0)}, r"lambda_W\[1\] = -1.0"),
        ({"widths": (6, 5), "lambda_W": -1.0}, "lambda_W = -1.0"),
        ({"lambda_W": 1e-2}, "lambda_W = 0.01: hidden layers"),
        ({"activation": "relu"}, "activation = 'relu': hidden layers"),
        ({"widths": (6,), "activation": "tanh"}, "activation = 'tanh': one of 'linear', 'relu'"),
        ({"widths": (10**9, 10**9)}, "widths = .*GiB"),
    ],
)
def test_what_makes_no_layers_is_refused_by_name(words, message):
    with pytest.raises(ValueError, match=message):
        problem(**words)


def test_parameters_of_other_layers_are_refused_by_name():
    p = DEEP["linear"]
    params = p.init(seed=0)
    wrong = {
        r"params.W = .*2 matrices": (params[:3], params._replace(W=()), params._replace(W=params.W[:1])),
        r"params.W\[1\] of shape \(6, 5\): \(5, 6\)": (params._replace(W=(params.W[0], params.W[1].T)),),
        r"params.W\[0\] = ": (params._replace(W=("a", params.W[1])),),
        r"params.A of shape \(3, 4\): \(3, 5\)": (params._replace(A=np.zeros((3, 4))),),
    }
    for message, several in wrong.items():
        for each in several:
            with pytest.raises(ValueError, match=message):
                p.objective(each)
    with pytest.raises(ValueError, match=r"params.W\[0\] = .*NaN"):
        ufm.curvature(p, params._replace(W=(np.full((6, 4), np.nan), params.W[1])))
    with pytest.raises(ValueError, match=r"params.W = .*no hidden layers"):
        problem().objective(Params(np.zeros((15, 4)), np.zeros((3, 4)), np.zeros(3), (np.eye(4),)))
    with pytest.raises(ValueError, match="one entry a seed"):
        ufm.train(p, optax.sgd(0.1), seed=[0, 1], params=jax.tree.map(lambda leaf: leaf[None], params), **STEPS)


def test_nothing_is_claimed_where_nothing_is_known_of_layers():
    p = problem(loss=ufm.SquaredError(), activation="relu", **WIDTHS)
    report = ufm.verify(ufm.train(p, optax.sgd(0.1), **STEPS))
    assert not report.fails
    assert report.lower_bound <= report.value


def test_layers_are_drawn_at_several_snapshots():
    run = ufm.train(DEEP["relu"], optax.sgd(0.2), **STEPS)
    made = plot.layers(run.history, snapshots=2)
    for axis, name in zip(made.axes, ("nc1", "nc2", "nc3"), strict=True):
        for line, at in zip(axis.get_lines(), (0, -1), strict=True):
            assert_allclose(line.get_ydata(), getattr(run.history.layers, name)[at])
            assert line.get_xdata().tolist() == [0, 1, 2]
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["step 0", "step 12"]
    several = ufm.train(DEEP["relu"], optax.sgd(0.2, momentum=0.5), seed=[0, 1], **STEPS).history
    drawn = plot.layers(several, snapshots=1).axes[0].get_lines()[0].get_ydata()
    assert_allclose(drawn, np.exp(np.log(several.layers.nc1[:, -1]).mean(axis=0)))
    assert len(plot.layers(run.to_xarray()).axes[0].get_lines()) == 4
    alone = plot.layers(ufm.measure(through(run.problem, run.params), run.problem.labels))
    assert len(alone.axes[0].get_lines()) == 1
    with pytest.raises(ValueError, match=r"history = .*layers"):
        plot.layers(ufm.train(problem(), optax.sgd(0.5), **STEPS).history)


def test_the_command_line_takes_depth(tmp_path, capsys):
    from ufm.cli import main

    flags = ["--num-classes", "3", "--dim", "4", "--per-class", "5", "--lambda-A", "1e-2", "--lambda-H", "1e-2"]
    deep = [*flags, "--widths", "6", "5", "--lambda-W", "2e-2", "3e-3", "--activation", "relu"]
    file = tmp_path / "run.npz"
    assert (
        main(["train", *deep, "--steps", "12", "--snapshots", "4", "--precision", "float64", "--save", str(file)]) == 0
    )
    assert repr(ufm.load(file).problem) == repr(DEEP["relu"])
    store = ["--store", str(tmp_path / "s.zarr"), "--run", "sgd", "--rate", "0.2", "--steps", "12", "--snapshots", "4"]
    over = ["--over", "widths=none,6,6x5", "--over", "activation=linear"]
    assert main(["sweep", *flags, *over, *store, "--precision", "float64"]) == 0
    assert xarray.open_zarr(tmp_path / "s.zarr").widths.values.tolist() == ["none", "6", "6,5"]
    assert main(["train", *flags, "--widths", "6", "0"]) == 2
    assert "widths[1] = 0" in capsys.readouterr().err

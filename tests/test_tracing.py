"""What the README says of jit, grad and vmap, row by row."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from zoo import problem

import ufm

SECTION = (pathlib.Path(__file__).parents[1] / "README.md").read_text().partition("## Inside jit, grad and vmap")[2]
ROWS = [row.split("|")[1:3] for row in SECTION.partition("\n## ")[0].splitlines() if row.startswith("| `")]
P = problem(per_class=[7, 3, 5], class_weights=[1.0, 2.0, 0.5])
Q, LABELS = P.init(0), P.labels

# each by a function of features (15, 4), classifier (3, 4) and bias (3,), with numbers as they are outside
TRACED = {
    "problem.objective": lambda H, A, b: P.objective(ufm.Params(H, A, b)),
    "ufm.metrics.evaluate": lambda H, A, b: sum(ufm.metrics.evaluate(H, LABELS, A, b)),
    "ufm.dual_bound": lambda H, A, b: ufm.dual_bound(P, ufm.Params(H, A, b)),
    "ufm.CrossEntropy": lambda H, A, b: ufm.CrossEntropy()(H @ A.T + b[None], LABELS).sum(),
}
LOSSES = {
    "label smoothing": ufm.LabelSmoothing(0.1),
    "focal": ufm.Focal(2.0),
    "squared error": ufm.SquaredError(),
    "dot regression": ufm.DotRegression(1.5),
}
TRACED |= {
    name: lambda H, A, b, loss=loss: loss(H @ A.T + b[None], LABELS).sum() for name, loss in LOSSES.items()
}  # "every other loss"

UNTRACED = {
    "ufm.Problem": lambda q: problem(lambda_A=jnp.mean(q.H)),
    "ufm.Targets": lambda q: ufm.Targets(q.A, 1),
    "ufm.measure_regression": lambda q: ufm.measure_regression(q.H, q.H[:, :3], q.A),
    "ufm.measure": lambda q: ufm.measure(q.H, LABELS, q.A, q.b),
    "ufm.Stream": lambda q: ufm.Stream(3).add(q.H, LABELS),
    "ufm.Recorder": lambda q: ufm.Recorder(3).add(q.H, LABELS),
    "ufm.train": lambda q: ufm.train(P, optax.sgd(0.5), steps=2, params=q),
    "ufm.minimize": lambda q: ufm.minimize(weighted_by(q)),
    "ufm.sweep": lambda q: ufm.sweep(weighted_by(q), {"seed": [0]}),
    "ufm.lower_bound": lambda q: ufm.lower_bound(P, q),
    "ufm.curvature": lambda q: ufm.curvature(P, q),
    "ufm.predict": lambda q: ufm.predict(weighted_by(q)),
    "ufm.verify": lambda q: ufm.verify(weighted_by(q)),
}


def weighted_by(q):
    """The problem with a traced number in each of its leaves."""
    return jax.tree.map(lambda leaf: leaf * (1.0 + 0.0 * jnp.mean(q.H)), P)


def named(kind):
    """Functions of the README's table that trace, or don't."""
    return {
        re.match(r"[\w.]+", name)[0]
        for row, said in ROWS
        if said.strip() == kind
        for name in re.findall(r"`(.+?)`", row)
    }


def test_every_row_is_tried():
    assert {row[1].strip() for row in ROWS} == {"yes", "no"}
    assert named("yes") == TRACED.keys() - LOSSES.keys()
    assert named("no") == UNTRACED.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TRACED)
def test_what_traces_gives_the_same_inside(name, dtype):
    of, tolerance = TRACED[name], 200 * np.finfo(dtype).eps
    one, other = (tuple(np.asarray(x, dtype) for x in q[:3]) for q in (Q, P.init(1, scale=2.0)))
    with jax.enable_x64(dtype == np.float64):
        values = [np.asarray(of(*map(jnp.asarray, point))) for point in (one, other)]
        inside = jax.jit(of)(*one)
        assert inside.dtype == dtype
        assert_allclose(inside, values[0], rtol=tolerance)
        assert_allclose(jax.jit(jax.vmap(of))(*map(np.stack, zip(one, other, strict=True))), values, rtol=tolerance)


@pytest.mark.parametrize("name", TRACED)
def test_what_traces_has_its_derivatives_by_grad(name):
    of, random = TRACED[name], np.random.default_rng(7)  # P.init(0) draws those of 0
    with jax.enable_x64(True):
        point = [jnp.asarray(x) for x in Q[:3]]
        direction = [random.normal(size=x.shape) for x in point]

        def along(t):
            return float(of(*(x + t * v for x, v in zip(point, direction, strict=True))))

        gradient = jax.jit(jax.grad(of, argnums=(0, 1, 2)))(*point)
        found = sum(float(jnp.sum(g * v)) for g, v in zip(gradient, direction, strict=True))
        step = 1e-6
        assert_allclose(found, (along(step) - along(-step)) / (2 * step), rtol=1e-6)


def test_numbers_of_a_problem_and_of_a_loss_have_derivatives():
    soft = ufm.Problem(targets=ufm.Targets(np.full((3, 3), 1 / 3), [7, 3, 5], weights=[1.0, 2.0, 0.5]), dim=4)
    with jax.enable_x64(True):
        of_problem = jax.grad(lambda p: p.objective(Q))(P)
        of_targets = jax.grad(lambda p: p.objective(Q))(soft).targets
        of_loss = jax.grad(lambda loss: loss(Q.H @ Q.A.T, LABELS).sum())(ufm.LabelSmoothing(0.1))
    assert_allclose(of_problem.lambda_A, np.sum(Q.A**2) / 2, rtol=1e-12)
    assert_allclose(of_problem.lambda_H, np.sum(Q.H**2) / 2, rtol=1e-12)
    # the loss is lse(z) Σ_k T_k − T·z
    logits = Q.H @ Q.A.T
    slopes = np.log(np.sum(np.exp(logits), axis=1, keepdims=True)) - logits
    each = np.add.reduceat(slopes, [0, 7, 10]) / 15
    assert_allclose(of_targets.rows, soft.targets.weights[:, None] * each, rtol=1e-10)
    assert_allclose(of_targets.weights, np.mean(each, axis=1), rtol=1e-10)
    # label smoothing is (1 − α) ce(label) + α mean over k of ce(k)
    cross_entropies = [np.asarray(ufm.CrossEntropy()(Q.H @ Q.A.T, np.full(15, k))) for k in range(3)]
    expected = np.mean(cross_entropies, axis=0) - np.choose(LABELS, cross_entropies)
    assert_allclose(of_loss.alpha, expected.sum(), rtol=1e-10)


@pytest.mark.parametrize("name", UNTRACED)
def test_what_does_not_trace_refuses_traced_arrays(name):
    with pytest.raises((ValueError, TypeError)):  # JAX's errors of traced arrays are TypeErrors
        jax.jit(UNTRACED[name])(Q)


@pytest.mark.parametrize(
    "of",
    [
        lambda p: ufm.train(p, optax.sgd(0.5), steps=2),
        ufm.minimize,
        lambda p: ufm.minimize([P, p]),
        lambda p: ufm.sweep(p, {"seed": [0]}),
        lambda p: ufm.lower_bound(p, Q),
        lambda p: ufm.curvature(p, Q),
        ufm.predict,
        ufm.verify,
    ],
)
def test_a_traced_problem_is_refused_with_what_takes_it(of):
    with pytest.raises(ValueError, match=r"problem is traced by JAX: .* ufm.dual_bound are what takes it"):
        jax.jit(of)(P)


def test_the_example(capsys):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1], {})
    assert capsys.readouterr().out.startswith("(100, 16) ")

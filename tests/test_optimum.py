import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from zoo import ZOO, problem

import ufm
from ufm.optimum import minimize_all
from ufm.problem import columns, risk
from ufm.reduction import class_means, relaxed_rank
from ufm.solver import Status

CONVEX = {
    "cross-entropy": {"loss": ufm.CrossEntropy()},
    "squared error": {"loss": ufm.SquaredError()},
    "label smoothing": {"loss": ufm.LabelSmoothing(0.1)},
}
BIASES = {"none": {"bias": False}, "free": {"bias": True}, "regularised": {"bias": True, "lambda_b": 1e-2}}


def scipy_minimum(p, seeds=(0, 1)):
    """The least value that SciPy's L-BFGS finds for the problem as posed, all N·d features free."""
    shapes = [np.shape(leaf) for leaf in p.init()[:3]]
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]

    def params(x):
        return ufm.Params(*(part.reshape(shape) for part, shape in zip(jnp.split(x, cuts), shapes, strict=True)))

    with jax.enable_x64(True):
        fun = jax.jit(jax.value_and_grad(lambda x: risk(p, columns(params(x)))))
        options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
        values = []
        for seed in seeds:
            x = np.concatenate([np.ravel(leaf) for leaf in p.init(seed)[:3]])
            values.append(
                scipy.optimize.minimize(
                    lambda x: [np.asarray(v) for v in fun(x)], x, jac=True, method="L-BFGS-B", options=options
                )
            )
    return min(float(result.fun) for result in values)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("loss", CONVEX)
def test_gap_closes_for_every_convex_problem_of_enough_dimensions(loss, bias):
    kinds = {**CONVEX[loss], **BIASES[bias]}
    K = 5

    @settings(max_examples=10)
    @given(
        st.lists(st.sampled_from((1, 2, 7, 30, 1000)), min_size=K, max_size=K),
        st.floats(-7, -1),
        st.floats(-7, -1),
        st.booleans(),
    )
    def check(counts, log_A, log_H, weighted):
        words = {"num_classes": K, "per_class": counts, "lambda_A": 10.0**log_A, "lambda_H": 10.0**log_H, **kinds}
        words["class_weights"] = np.geomspace(0.5, 2.0, K) if weighted else None
        p = problem(dim=9, **words)
        p = dataclasses.replace(p, dim=relaxed_rank(p))
        best = ufm.minimize(p)
        assert best.certified
        assert best.gap >= 0
        assert best.gap <= max(1e-8 * abs(best.value), 1e-12)

    check()


@pytest.mark.parametrize("name", [*ZOO, "few dimensions"])
def test_no_solver_finds_less_on_the_problem_as_posed(name):
    p = ZOO.get(name) or problem(num_classes=5, dim=2, per_class=3, bias=False)
    if name.startswith("sphere"):
        pytest.skip("SciPy's L-BFGS knows no spheres; test_spheres_against_the_closed_form does")
    best = ufm.minimize(p)
    assert_allclose(best.value, scipy_minimum(p), rtol=1e-9)


@pytest.mark.parametrize("name", ZOO)
def test_the_lifted_solution_is_a_critical_point_of_the_problem_as_posed(name):
    p = ZOO[name]
    best = ufm.minimize(p)
    with jax.enable_x64(True):
        q = jax.tree.map(jnp.asarray, best.params)
        g = jax.jit(jax.grad(lambda q: risk(p, columns(q))))(q)
        g_H = np.asarray(p.features.tangent(q.H, g.H, axis=1))
        g_A, g_b = np.asarray(p.classifier.tangent(q.A, g.A, axis=1)), np.asarray(g.b)
    norm = np.sqrt(np.sum(g_H**2) + np.sum(g_A**2) + (np.sum(g_b**2) if p.bias else 0.0))
    assert norm < 1e-9
    assert_allclose(p.objective(best.params), best.value, rtol=1e-12)
    assert_allclose(norm, best.grad_norm, atol=1e-12)
    assert np.shape(best.params.H) == (p.num_samples, p.dim)


def test_more_samples_and_dimensions_change_nothing_but_the_lifting():
    small = ufm.minimize(problem(per_class=5, dim=3, lambda_H=1e-2))
    # f depends on n_k and λ_H through n_k/N and n_k λ_H only
    large = ufm.minimize(problem(per_class=5000, dim=300, lambda_H=1e-5))
    assert_allclose(large.value, small.value, rtol=1e-13)
    assert large.steps == small.steps
    assert np.shape(large.params.H) == (15_000, 300)


@given(st.floats(0.3, 3.0), st.floats(0.3, 3.0))
def test_spheres_against_the_closed_form(R_H, R_A):
    # log(1 + (K−1) exp(−K R_H R_A/(K−1))) at the ETF, K ≤ d + 1 (Lu & Steinerberger 2022)
    p = problem(lambda_A=0.0, lambda_H=0.0, features=ufm.Sphere(R_H), classifier=ufm.Sphere(R_A), bias=False)
    best = ufm.minimize(p)
    assert_allclose(best.value, np.log1p(2 * np.exp(-1.5 * R_H * R_A)), rtol=1e-10)
    assert best.certified


@pytest.mark.parametrize("counts", [[9, 4, 2], [1000, 10, 1]])
def test_imbalanced_spheres_are_certified(counts):
    spheres = {"features": ufm.Sphere(2.0), "classifier": ufm.Sphere(1.5), "lambda_A": 0.0, "lambda_H": 0.0}
    best = ufm.minimize(problem(per_class=counts, bias=False, **spheres))
    assert best.gap <= 1e-8 * best.value


@pytest.mark.parametrize(("factor", "degenerate"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize("loss", CONVEX)
def test_the_zero_point_is_the_optimum_on_one_side_of_the_threshold(loss, factor, degenerate):
    # balanced: zero iff K√(λ_A λ_H n) ≥ 1 (1 − α under label smoothing)
    K, n = 4, 9
    edge = (0.9 if loss == "label smoothing" else 1.0) / (K * np.sqrt(n))
    p = problem(num_classes=K, per_class=n, lambda_A=factor * edge, lambda_H=factor * edge, **CONVEX[loss])
    best = ufm.minimize(p)
    assert best.degenerate == degenerate
    assert best.certified
    assert best.status is Status.CONVERGED
    assert (np.max(np.abs(best.params.H)) == 0) == degenerate


def test_spurious_minima_are_told_apart_by_more_starts():
    # K = 6, d = 2, n = 1, λ = 1e-3, free bias: a local minimum at 0.066484 is known, and 0.062346 is reached
    best = ufm.minimize(problem(num_classes=6, dim=2, per_class=1, lambda_A=1e-3, lambda_H=1e-3))
    assert best.value <= 0.062346
    assert not best.certified
    assert best.starts > 1
    assert 1 <= best.agreed <= best.starts
    assert best.lower_bound <= best.value


def test_what_cannot_be_certified_says_so():
    best = ufm.minimize(problem(loss=lambda z, y: 1.0 - jax.nn.softmax(z)[y]))
    assert best.lower_bound == -np.inf
    assert not best.certified


def test_a_declared_convex_loss_is_certified():
    def hinge(z, y):  # a smooth hinge: Σ_j softplus(1 − z_y + z_j)
        return jnp.sum(jax.nn.softplus(1.0 - z[y] + z)) - jax.nn.softplus(jnp.ones((), z.dtype))

    hinge.convex, hinge.infimum = True, 0.0
    best = ufm.minimize(problem(loss=hinge, bias=False))
    assert best.certified
    assert not ufm.minimize(problem(loss=hinge, bias=True)).certified  # a free bias needs the conjugate


def test_batches_are_the_single_solutions():
    problems = [problem(lambda_A=value) for value in np.geomspace(1e-3, 1e-1, 40)]
    for together, alone in zip(minimize_all(problems, [0] * 40)[::13], map(ufm.minimize, problems[::13]), strict=True):
        assert_allclose(together.value, alone.value, rtol=1e-13)
        assert together.certified


def test_metrics_are_what_measure_says_of_the_lifted_features():
    p = ZOO["imbalanced"]
    best = ufm.minimize(p)
    measured = ufm.measure(best.params.H, p.labels, best.params.A, best.params.b)
    for name, value in measured._asdict().items():
        assert_allclose(getattr(best.metrics, name), value, atol=1e-9)
    assert_allclose(class_means(p, best.params.H)[:, : best.means.shape[1]], best.means, atol=1e-14)


def test_saved_optima_come_back(tmp_path):
    best = ufm.minimize(ZOO["imbalanced"])
    best.save(tmp_path / "best")
    back = ufm.load(tmp_path / "best")
    assert (back.value, back.gap, back.status, back.metrics) == (best.value, best.gap, best.status, best.metrics)
    assert np.array_equal(back.params.H, best.params.H)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"problem": problem(lambda_A=0.0)}, "lambda_A = 0 with free classifier"),
        ({"problem": problem(lambda_H=0.0)}, "lambda_H = 0 with free features"),
        ({"seed": -1}, "seed = -1"),
        ({"tol": 0.0}, "tol = 0.0"),
        ({"max_steps": 1}, "max_steps = 1"),
    ],
)
def test_wrong_arguments_name_themselves(words, message):
    with pytest.raises(ValueError, match=message):
        ufm.minimize(**{"problem": problem(), **words})

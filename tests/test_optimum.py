import dataclasses
import functools as ft
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from numpy.testing import assert_allclose
from zoo import FREE, ZOO, problem

import ufm
from ufm._core import programs
from ufm._core.lanes import width_of
from ufm._core.status import Status
from ufm.minima import optimum
from ufm.minima.certificate import _bounds, relative_gap
from ufm.minima.lane_objective import objective
from ufm.minima.newton import HESSIAN_HELD, _derivatives
from ufm.minima.optimum import _finish, minimize_all
from ufm.minima.reduction import LaneParams, reduce
from ufm.minima.starts import informed_start
from ufm.model.losses import Custom, curvature_of_shifts, curvatures_of_shifts, per_sample
from ufm.model.params import columns
from ufm.model.problem import class_means, relaxed_rank, risk

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


@pytest.mark.parametrize(
    ("loss", "bias", "K"), [*itertools.product(CONVEX, BIASES, (3,)), ("cross-entropy", "free", 5)]
)
def test_gap_closes_for_every_convex_problem_of_enough_dimensions(loss, bias, K):
    kinds = {**CONVEX[loss], **BIASES[bias]}

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
        assert best.gap <= 1e-8 * abs(best.value)

    check()


@pytest.mark.parametrize("name", [*FREE, "few dimensions"])
def test_no_solver_finds_less_on_the_problem_as_posed(name):
    p = ZOO.get(name) or problem(num_classes=5, dim=2, per_class=3, bias=False)
    best = ufm.minimize(p)
    assert_allclose(best.value, scipy_minimum(p), rtol=1e-9)


@pytest.mark.parametrize("name", ZOO)
def test_the_lifted_solution_is_a_critical_point_of_the_problem_as_posed(name):
    p = ZOO[name]
    best = ufm.minimize(p)
    with jax.enable_x64(True):
        q = jax.tree.map(jnp.asarray, best.params)
        g = jax.jit(jax.grad(lambda q: risk(p, columns(q))))(q)
        # copies of a class share its gradient, and its multiplier
        sums = class_means(p, g.H) * p.class_counts[:, None]
        g_H = np.asarray(p.features.residual(jnp.asarray(class_means(p, q.H)), jnp.asarray(sums)))
        g_A, g_b = np.asarray(p.classifier.residual(q.A, g.A)), np.asarray(g.b)
    squares = np.sum(g_H**2 / p.class_counts[:, None]) + np.sum(g_A**2) + (np.sum(g_b**2) if p.bias else 0.0)
    norm = np.sqrt(squares)
    assert norm < 1e-9
    assert_allclose(p.objective(best.params), best.value, rtol=1e-12)
    assert_allclose(norm, best.grad_norm, atol=1e-12)
    assert np.shape(best.params.H) == (p.num_samples, p.dim)


def test_more_samples_and_dimensions_change_nothing_but_the_lifting():
    small = ufm.minimize(problem(per_class=5, dim=3, lambda_H=1e-2))
    # f depends on n_k and λ_H through n_k/N and n_k λ_H only
    large = ufm.minimize(problem(per_class=5000, dim=300, lambda_H=1e-5))
    assert_allclose(large.value, small.value, rtol=1e-13)
    assert (large.means.shape, large.A.shape) == (small.means.shape, small.A.shape)  # what is solved
    assert np.shape(large.params.H) == (15_000, 300)


@given(st.floats(0.3, 3.0), st.floats(0.3, 3.0))
def test_spheres_against_the_closed_form(R_H, R_A):
    # log(1 + (K−1) exp(−K R_H R_A/(K−1))) at the ETF, K ≤ d + 1 (Lu & Steinerberger 2022)
    p = problem(lambda_A=0.0, lambda_H=0.0, features=ufm.Sphere(R_H), classifier=ufm.Sphere(R_A), bias=False)
    best = ufm.minimize(p)
    assert_allclose(best.value, np.log1p(2 * np.exp(-1.5 * R_H * R_A)), rtol=1e-10)
    assert best.certified


ROUND = {"lambda_A": 0.0, "lambda_H": 0.0, "bias": False}


@pytest.mark.parametrize("kind", [ufm.Sphere, ufm.Ball, ufm.MeanBall])
def test_bounded_norms_are_certified_whatever_the_counts(kind):
    @settings(max_examples=10)
    @given(
        st.lists(st.sampled_from((1, 2, 7, 30, 1000)), min_size=3, max_size=3), st.floats(0.3, 3.0), st.floats(0.3, 3.0)
    )
    def check(counts, R_H, R_A):
        p = problem(per_class=counts, features=kind(R_H), classifier=kind(R_A), **ROUND)
        best = ufm.minimize(p)
        assert 0 <= best.gap <= 1e-8 * best.value
        for seed in range(3):
            assert p.objective(p.init(seed)) >= best.lower_bound

    check()


@pytest.mark.parametrize("kind", [ufm.Sphere, ufm.Ball, ufm.MeanBall])
@pytest.mark.parametrize("temperature", [10.0, 100.0])
def test_large_temperatures_do_not_underflow(kind, temperature):
    # (K−1) exp(−Kτ/(K−1)) up to its square: 3e-65 at τ = 100 has all its digits
    p = problem(features=kind(np.sqrt(temperature)), classifier=kind(np.sqrt(temperature)), **ROUND)
    best = ufm.minimize(p)
    assert best.status is Status.CONVERGED
    assert_allclose(best.value, np.log1p(2 * np.exp(-1.5 * temperature)), rtol=1e-8)
    assert 0 <= best.gap <= 1e-8 * best.value
    assert best.metrics.nc2 < 1e-6


def test_a_loss_that_underflows_is_a_minimum():
    best = ufm.minimize(problem(features=ufm.Sphere(30.0), classifier=ufm.Sphere(30.0), **ROUND))
    assert best.value == 0.0
    assert best.status is Status.CONVERGED
    # nothing is known of the digits of a minimum that is positive
    assert not best.certified
    assert {claim.verdict for claim in ufm.verify(best).claims} == {"undecided"}


def softmax_code(K, d, radius, **words):
    """One sample a class on spheres, more classes than d + 1: no certificate is known."""
    spheres = {"features": ufm.Sphere(radius), "classifier": ufm.Sphere(radius), **ROUND}
    return problem(num_classes=K, dim=d, per_class=1, **{**spheres, **words})


def assert_honest(best, reached):
    assert best.lower_bound == 0.0  # the loss's infimum, which nothing attains
    assert not best.certified
    assert best.starts > 1
    assert best.value <= reached


@pytest.mark.parametrize("gamma", [None, 1.5])
def test_an_infimum_that_is_not_attained_certifies_nothing_above_it(gamma):
    p = softmax_code(6, 2, 8.0, loss=ufm.CrossEntropy() if gamma is None else ufm.Focal(gamma))
    best = ufm.minimize(p, max_steps=150)
    # the hexagon: Σ_j exp(τ(cos(2πj/6) − 1)) of the wrong classes, to the power 1 + γ
    hexagon = np.sum(np.exp(64.0 * (np.cos(2 * np.pi * np.arange(1, 6) / 6) - 1))) ** (1 + (gamma or 0.0))
    assert best.value <= hexagon * (1 + 1e-6)
    assert not best.certified
    assert best.starts > 1
    assert ufm.verify(best).holds is False
    table = ufm.sweep(p, {"seed": [1]}, run=ft.partial(ufm.minimize, max_steps=100))
    assert not table.certified.any()
    assert (table.starts > 1).all()


@pytest.mark.slow
# local minima that random starts end in lie within some percent of one another, and rounding decides which is found
def test_many_classes_on_small_spheres_are_honestly_uncertified():
    assert_honest(ufm.minimize(softmax_code(100, 10, 7.0)), 1.7e-13)


def test_a_loss_of_a_user_that_falls_is_not_certified_by_its_infimum():
    def tail(z, y):
        return jnp.sum(jax.nn.softplus(z - z[y])) - np.log(2.0)

    tail.convex, tail.infimum = True, 0.0
    best = ufm.minimize(softmax_code(6, 2, 8.0, loss=tail), max_steps=100)
    assert 0 < best.value < 1e-12
    assert not best.certified
    assert best.starts > 1


def test_a_value_that_rounding_puts_below_its_bound_is_not_certified():
    def cooled(z, y):  # T log Σ_j exp(z_j/T) − z_y, whose rounding is that of z and of either sign
        return 0.3 * jax.nn.logsumexp(z / 0.3) - z[y]

    cooled.convex, cooled.infimum = True, 0.0
    p = softmax_code(6, 2, 8.0, loss=cooled)
    assert not ufm.minimize(p, max_steps=100).certified
    assert relative_gap(p, -1e-15, 0.0) >= 1


@pytest.mark.parametrize(("loss", "target"), [(ufm.SquaredError(), 1.0), (ufm.DotRegression(2.0), 2.0)])
def test_a_minimum_of_zero_that_is_attained_is_certified(loss, target):
    best = ufm.minimize(problem(loss=loss, features=ufm.Ball(2.0), classifier=ufm.Ball(2.0), **ROUND))
    at_zero = best.problem.objective(jax.tree.map(np.zeros_like, best.params))
    assert 0 <= best.value <= 1e-12 * at_zero
    assert best.certified
    assert best.starts == 1
    # where it costs anything the minimum is K t (c√n − N c²/2), c = √(λ_A λ_H), of diagonal logits z = t (1 − c K√n)
    priced = ufm.minimize(problem(loss=loss, lambda_A=1e-14, lambda_H=1e-14, bias=False))
    K, n, c = 3, priced.problem.class_counts[0], 1e-14
    assert_allclose(priced.value, K * target * (c * np.sqrt(n) - K * n * c**2 / 2), rtol=1e-8)
    assert priced.certified
    # and a value one per cent above it, by 1e-15, is as far off as that
    assert_allclose(relative_gap(priced.problem, 1.01 * priced.value, priced.lower_bound), 0.01 / 1.01, rtol=1e-5)


def test_a_ball_that_does_not_bind_changes_nothing():
    free, held = ufm.minimize(problem()), ufm.minimize(problem(features=ufm.Ball(50.0), classifier=ufm.Ball(50.0)))
    assert_allclose(held.value, free.value, rtol=1e-10)
    assert held.certified


@settings(max_examples=10)
@given(st.lists(st.sampled_from((1, 7, 1000)), min_size=3, max_size=3), st.floats(-6, -1), st.integers(0, 99))
def test_any_fixed_classifier_is_certified(counts, log_decay, seed):
    # the problem is convex in the features and the bias, whatever the matrix
    matrix = np.random.default_rng(seed).normal(size=(3, 4))
    best = ufm.minimize(problem(per_class=counts, lambda_A=0.0, lambda_H=10.0**log_decay, classifier=ufm.Fixed(matrix)))
    assert best.certified
    assert_allclose(best.params.A, matrix)


def test_a_fixed_classifier_is_reduced_to_its_row_space():
    matrix = ufm.geometry.simplex_etf(3, 40, seed=1)
    words = {"per_class": [7, 3, 2], "lambda_A": 0.0, "lambda_H": 0.0, "bias": False}
    wide = problem(dim=40, classifier=ufm.Fixed(matrix), features=ufm.Sphere(2.0), **words)
    best = ufm.minimize(wide)
    assert best.means.shape == (3, 4)
    assert_allclose(wide.objective(best.params), best.value, rtol=1e-13)
    assert_allclose(np.linalg.norm(best.params.H, axis=1), 2.0, rtol=1e-14)
    narrow = problem(dim=2, classifier=ufm.Fixed(ufm.geometry.simplex_etf(3, 2)), features=ufm.Sphere(2.0), **words)
    assert_allclose(ufm.minimize(narrow).value, best.value, rtol=1e-10)


@settings(max_examples=10)
@given(st.lists(st.sampled_from((1, 7, 100)), min_size=3, max_size=3), st.floats(-5, -2), st.floats(-5, -2))
def test_nonnegative_features_are_certified(counts, log_A, log_H):
    # λ_max of the entrywise positive part of the dual's Gram closes the gap that the operator norm leaves
    words = {"lambda_A": 10.0**log_A, "lambda_H": 10.0**log_H, "features": ufm.Nonnegative(), "bias": False}
    best = ufm.minimize(problem(dim=12, per_class=counts, **words))
    assert np.all(best.params.H >= 0)
    assert best.certified


def test_codes_in_too_few_dimensions_are_honestly_uncertified():
    spheres = {"features": ufm.Sphere(2.0), "classifier": ufm.Sphere(2.0), **ROUND}
    best = ufm.minimize(problem(num_classes=5, dim=2, per_class=3, **spheres))
    # the pentagon (numerically global): log Σ_j exp(τ(cos(2πj/5) − 1))
    pentagon = np.log(np.sum(np.exp(4.0 * (np.cos(2 * np.pi * np.arange(5) / 5) - 1))))
    assert_allclose(best.value, pentagon, rtol=1e-8)
    assert not best.certified
    assert best.lower_bound < best.value
    assert best.starts > 1
    assert best.agreed >= 1


@pytest.mark.parametrize(("factor", "degenerate"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize("loss", CONVEX)
def test_the_zero_point_is_the_optimum_on_one_side_of_the_threshold(loss, factor, degenerate):
    # balanced: zero iff K√(λ_A λ_H n) ≥ 1 (1 − α under label smoothing)
    K, n = 3, 9
    edge = (0.9 if loss == "label smoothing" else 1.0) / (K * np.sqrt(n))
    p = problem(per_class=n, lambda_A=factor * edge, lambda_H=factor * edge, **CONVEX[loss])
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


@pytest.mark.parametrize("names", [("means", "A", "b"), ("means", "classifier", "bias")])
def test_optima_that_earlier_versions_saved_come_back(tmp_path, names):
    best = ufm.minimize(problem(features=ufm.Ball(1.0), per_class=[7, 3, 2]))
    best.save(tmp_path / "best")
    with np.load(tmp_path / "best") as file:
        arrays = dict(file)
    tree = json.loads(str(arrays["__tree__"]))
    parts = tree["fields"].pop("solution")["fields"]
    tree["fields"] |= {name: parts[part] for name, part in zip(names, ("H", "A", "b"), strict=True)}
    with (tmp_path / "earlier").open("wb") as file:
        np.savez(file, **{**arrays, "__tree__": np.asarray(json.dumps(tree))})
    back = ufm.load(tmp_path / "earlier")
    for name in ("means", "A", "b"):
        assert np.array_equal(getattr(back, name), getattr(best, name))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"problem": problem(lambda_A=0.0)}, "lambda_A = 0 with unbounded classifier"),
        ({"problem": problem(lambda_H=0.0)}, "lambda_H = 0 with unbounded features"),
        ({"seed": -1}, "seed = -1"),
        ({"tol": 0.0}, "tol = 0.0"),
        ({"max_steps": 1}, "max_steps = 1"),
    ],
)
def test_wrong_arguments_name_themselves(words, message):
    with pytest.raises(ValueError, match=message):
        ufm.minimize(**{"problem": problem(), **words})


class ShiftedCrossEntropy:
    """A user's loss, without a curvature of its own."""

    convex, infimum = True, 0.0

    def __call__(self, logits, label):
        return jax.nn.logsumexp(logits) - logits[label]


def test_programs_that_are_forgotten_are_made_anew(monkeypatch):
    first = ufm.minimize(problem(loss=ShiftedCrossEntropy())).value
    monkeypatch.setattr(programs, "_traced", programs.MOST_PROGRAMS)
    programs._make_room()
    assert programs._traced == 1
    assert ufm.minimize(problem(loss=ShiftedCrossEntropy())).value == first
    assert programs._traced > 1


def equations(jaxpr):
    """All equations, of loops' bodies too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.SquaredError(), ShiftedCrossEntropy()])
def test_no_array_is_larger_than_a_few_matrices_of_classes(loss):
    K = 40
    p = problem(num_classes=K, dim=K, loss=loss)
    with jax.enable_x64(True):
        reduced = reduce([p])
        rows, b = np.ones((K, K, 1)), np.zeros((K, 1))
        programs = [
            jax.make_jaxpr(informed_start.__wrapped__)(reduced),
            jax.make_jaxpr(_bounds.__wrapped__)(reduced, LaneParams(rows, rows, b)),
        ]
    for program in programs:
        sizes = [np.prod(out.aval.shape) for eqn in equations(program.jaxpr) for out in eqn.outvars]
        assert max(sizes) <= 4 * K**2


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_a_hessian_is_the_same_by_any_number_of_rows(rows):
    with jax.enable_x64(True):
        reduced = reduce([ZOO["imbalanced"]])
        x = np.random.default_rng(0).normal(size=reduced.factor_size + reduced.num_classes)
        wanted = jax.jit(jax.jacrev(jax.grad(lambda x, reduced: objective(x[:, None], reduced)[0])))(x, reduced)
        found = _derivatives(objective)[1](x, reduced, HESSIAN_HELD // rows)
    assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_a_hessian_of_many_classes_is_formed_a_few_rows_at_a_time():
    # all at once its n rows would be n matrices of classes: 8.6 GB each here, and 35 GB in all
    with jax.enable_x64(True):
        reduced = reduce([problem(num_classes=600, dim=2, per_class=1)])
        x = np.ones(reduced.factor_size + 600)
        program = jax.make_jaxpr(_derivatives(objective)[1], static_argnums=2)(x, reduced, reduced.held)
    sizes = [np.prod(out.aval.shape) for eqn in equations(program.jaxpr) for out in eqn.outvars]
    assert max(sizes) <= max(len(x) ** 2, 2 * HESSIAN_HELD)


def computed_from_constants(jaxpr, constants=frozenset()):
    """Equations of arithmetic on what depends on no argument, in programs that are called too."""
    known = {v for v, constant in zip(jaxpr.invars, constants, strict=False) if constant} | set(jaxpr.constvars)
    for equation in jaxpr.eqns:
        fixed = [hasattr(v, "val") or v in known for v in equation.invars]
        called = equation.primitive.name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")
        for inner in jaxprs_in_params(equation.params):
            yield from computed_from_constants(inner, fixed if called else ())
        if all(fixed):
            known.update(equation.outvars)
            if equation.primitive.name != "broadcast_in_dim":  # which is not arithmetic
                yield equation


def test_nothing_large_is_computed_from_constants():
    # XLA would do it while it compiles, slowly
    K = 40
    with jax.enable_x64(True):
        reduced = reduce([problem(num_classes=K, dim=K)])
        x = np.ones((reduced.factor_size + K, 1))
        programs = [
            jax.make_jaxpr(informed_start.__wrapped__)(reduced),
            jax.make_jaxpr(_finish.__wrapped__)(x, reduced),
            jax.make_jaxpr(_bounds.__wrapped__)(reduced, LaneParams(*[np.ones((K, K, 1))] * 2, np.ones((K, 1)))),
        ]
    for program in programs:
        for equation in computed_from_constants(program.jaxpr):
            large = [v for v in equation.invars if np.prod(v.aval.shape) >= K**2 and v.aval.dtype == np.float64]
            assert not large, equation


def test_no_lane_is_computed_that_nobody_asked_for():
    assert width_of(1, 300**2) == width_of(8, 300**2) == 1
    assert width_of(1, 10**2) == 8  # where eight cost little more than one, and few programs are compiled


@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.LabelSmoothing(0.1), ufm.SquaredError()])
def test_declared_curvatures_are_those_of_the_loss(loss):
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        Z, labels, weights = jnp.asarray(random.normal(size=(3, 5))), jnp.arange(5) % 3, jnp.asarray(random.random(5))
        wanted = jax.jit(jax.hessian(lambda b: weights @ per_sample(loss, Z + b[:, None], labels)))(jnp.zeros(3))
        undeclared = Custom(lambda z, y: loss(z, y))
        for kind in (loss, undeclared):
            assert_allclose(curvature_of_shifts(kind, Z, labels, weights), wanted, atol=1e-14)
            assert_allclose(curvatures_of_shifts(kind, Z, labels, weights), np.diag(wanted), atol=1e-14)


def test_a_list_of_problems_gives_the_optima_of_each_in_its_order():
    kinds = (ZOO["cross-entropy"], ZOO["squared error"], problem(lambda_A=3e-2), ZOO["imbalanced"])
    together = ufm.minimize(kinds, 3)
    assert len(together) == len(kinds)
    for best, p in zip(together, kinds, strict=True):
        alone = ufm.minimize(p, 3)
        assert best.problem is p
        assert best.certified
        assert best.seed == 3
        assert_allclose(best.value, alone.value, rtol=1e-12)
        assert_allclose(best.lower_bound, alone.lower_bound, rtol=1e-8)


def test_problems_of_one_kind_are_solved_together(monkeypatch):
    batches, solve = [], optimum.minimize_all
    monkeypatch.setattr(
        optimum, "minimize_all", lambda problems, *rest: batches.append(problems) or solve(problems, *rest)
    )
    kinds = [problem(lambda_A=decay) for decay in (1e-2, 2e-2)]
    ufm.minimize([kinds[0], ZOO["squared error"], kinds[1]])
    assert batches == [kinds, [ZOO["squared error"]]]


@pytest.mark.parametrize(
    "wrong", [[], [problem(), None], {"a": problem()}, {problem()}, (p for p in [problem()]), [[problem()]], "problems"]
)
def test_what_is_no_list_of_problems_is_refused(wrong):
    with pytest.raises(ValueError, match=r"problem = .*a ufm\.Problem, or a list of at least one of them, is needed"):
        ufm.minimize(wrong)


def test_every_problem_of_a_list_is_bounded_before_any_is_solved(monkeypatch):
    monkeypatch.setattr(optimum, "minimize_all", None)
    with pytest.raises(ValueError, match="lambda_A = 0"):
        ufm.minimize([problem(), problem(lambda_A=0.0)])


def test_newtons_method_that_does_not_end_early_leaves_no_worse_point_behind():
    decays = {"lambda_A": 4.2578607572144036e-07, "lambda_H": 0.0, "features": ufm.Ball(2.0), "bias": False}
    problem = ufm.Problem(num_classes=4, dim=6, per_class=(3, 1, 5, 3), loss=ufm.SquaredError(), **decays)
    assert ufm.minimize(problem).certified

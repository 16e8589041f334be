"""Minima with hidden layers of any loss and with ReLUs: many starts, and the bound of the shallow problem beneath."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

import ufm
from ufm._core.lanes import take
from ufm._core.precision import float64
from ufm.minima import optimum, race
from ufm.minima.certificate import relative_gap
from ufm.minima.constructions import constructions, value
from ufm.minima.deep_starts import random_factors
from ufm.minima.lane_objective import objective, plain_objective, unfold
from ufm.minima.reduction import lane_of, least_dim, least_widths, reduce
from ufm.minima.shallow import Line, bound_of, price_at, scale_of, shallow

FEW = 300  # steps: at kinks of a ReLU more gain next to nothing, and checking types takes ten times as long as they do
ROWS = ufm.Targets([[0.7, 0.3, 0.0], [0.1, 0.5, 0.4], [0.0, 0.2, 0.8], [0.3, 0.3, 0.4]], counts=[3, 1, 2, 2])


def deep(**words):
    """Three classes, two hidden layers."""
    usual = {"num_classes": 3, "dim": 5, "per_class": 4, "lambda_A": 4e-3, "lambda_H": 1e-3, "lambda_W": (6e-3, 3e-3)}
    if "targets" in words:
        del usual["num_classes"], usual["per_class"]
    return ufm.Problem(**{**usual, "widths": (4, 5), "loss": ufm.CrossEntropy(), **words})


POSED = {
    "linear": deep(),
    "relu": deep(activation="relu"),
    "narrow": deep(widths=(2, 3), bias=False),
    "rows": deep(targets=ROWS, activation="relu"),
    "squared rows": deep(targets=ROWS, loss=ufm.SquaredError(), lambda_b=1e-2),
    "unequal": deep(per_class=(5, 2, 1), class_weights=(1.0, 2.0, 0.5), loss=ufm.SquaredError()),
    "balls": deep(features=ufm.Ball(1.5), lambda_H=0.0, activation="relu"),
    "spheres": deep(features=ufm.Sphere(1.5), classifier=ufm.Sphere(2.0), lambda_H=0.0, lambda_A=0.0),
    "non-negative": deep(features=ufm.Nonnegative(), activation="relu"),
}


@pytest.mark.parametrize("name", POSED)
def test_the_gradient_of_lanes_is_that_of_their_values(name):
    """By JAX's derivative of the value, in two lanes with different parameters."""
    reduced = take(reduce([POSED[name]]), [0, 0])
    random = np.random.default_rng(0)
    x = random.normal(size=(reduced.factor_size + reduced.num_classes * (reduced.bias_kind != "none"), 2))
    value, gradient = objective.value_and_grad(x, reduced)

    def summed(x):
        values = objective(x, reduced)
        return jnp.sum(values), values

    with float64():
        (_, expected), slopes = jax.jit(jax.value_and_grad(summed, has_aux=True))(x)
        assert_allclose(value, expected, rtol=1e-13)
        assert_allclose(gradient, slopes, rtol=1e-11, atol=1e-13)
    assert_allclose(plain_objective(unfold(x, reduced), reduced), value, rtol=1e-13)


@pytest.mark.parametrize("name", POSED)
def test_a_minimum_is_a_stationary_point_of_the_problem_as_posed(name):
    """The value is the objective's at parameters as posed; its gradient vanishes, but at the kinks of a ReLU."""
    problem, best = POSED[name], minimum(name)
    assert_allclose(problem.objective(best.params), best.value, rtol=1e-12)
    assert best.starts >= optimum.RANDOM_STARTS
    assert 1 <= best.agreed <= best.starts
    assert best.lower_bound <= best.value + 1e-12
    assert best.problem is problem
    if problem.activation == "linear":
        assert best.grad_norm <= 1e-8
    # of what the classifier reads, which layers have last
    for name, ours, layers in zip(best.metrics._fields, best.metrics, best.layers, strict=True):
        assert ours is None or layers is None or np.allclose(ours, layers[-1], rtol=1e-7, atol=1e-9), name


FOUND: dict[str, ufm.Optimum] = {}


def minimum(name):
    if name not in FOUND:
        relu = POSED[name].activation == "relu"
        FOUND[name] = ufm.minimize(POSED[name], max_steps=FEW if relu else 3000)
    return FOUND[name]


@pytest.mark.parametrize("words", [{"per_class": (5, 2, 1)}, {"bias": False, "widths": (2, 5)}])
def test_many_starts_reach_the_minimum_that_is_known(words):
    """Of linear layers under squared error singular values give it; starts know nothing of these."""
    problem = deep(loss=ufm.SquaredError(), **words)
    known = ufm.minimize(problem)
    (found,) = optimum._in_lanes([problem], [0], 1e-8, 3000, lambda ended: None, None)
    assert known.certified
    assert_allclose(found.value, known.value, rtol=1e-10)
    assert found.lower_bound <= known.value


def test_two_balanced_classes_of_linear_layers_have_one_direction():
    """With ℓ(t) = log(1 + e^{−t}) of the margin t, logits ±t/2 and Π^{1/2}Z of rank one and size x = t/√2.

    A mean over samples of ‖z‖² = t²/2 is ‖Π^{1/2}Z‖² = x²; other logits of these margins are larger. So the minimum is
    that of ℓ(√2 x) + (L/2) C x^{2/L}.
    """
    problem = deep(num_classes=2, per_class=3, bias=False)
    L, C = 4, (6 * 1e-3 * 6e-3 * 3e-3 * 4e-3) ** 0.25

    def on_line(x):
        return np.log1p(np.exp(-np.sqrt(2) * x)) + L / 2 * C * x ** (2 / L)

    # f is flat at its minimum: the value is found to the square of its rounding's root
    least = minimize_scalar(on_line, bounds=(1.0, 20.0), method="bounded", options={"xatol": 1e-9})
    assert least.fun < on_line(0.0)
    best = ufm.minimize(problem)
    assert_allclose(best.value, least.fun, rtol=1e-12)
    assert best.certified  # as there is one direction, decay is no more than its bound


@pytest.mark.parametrize(
    ("loss", "activation"),
    [(ufm.CrossEntropy(), "linear"), (ufm.SquaredError(), "relu"), (ufm.LabelSmoothing(0.1), "relu")],
)
def test_no_parameters_are_below_the_bound_of_others(loss, activation):
    """A lower bound from any candidate is below the objective anywhere, at minima too."""
    problem = deep(loss=loss, activation=activation, bias=False, class_weights=(1.0, 2.0, 3.0))
    best = ufm.minimize(problem, max_steps=FEW)
    candidates = [best.params, *(problem.init(seed, scale) for seed, scale in itertools.product(range(3), (0.1, 1, 3)))]
    bounds = [ufm.lower_bound(problem, candidate) for candidate in candidates]
    assert max(*bounds, best.lower_bound) <= best.value
    assert max(bounds[1:]) <= bounds[0] <= best.lower_bound * (1 + 1e-3)
    assert best.lower_bound > 0.3 * best.value


@hypothesis.given(
    sizes=st.lists(st.floats(0.01, 3.0), min_size=4, max_size=4),
    decays=st.lists(st.floats(1e-3, 1.0), min_size=4, max_size=4),
    price=st.floats(1e-4, 10.0),
    seed=st.integers(0, 99),
    activation=st.sampled_from(["linear", "relu"]),
)
def test_decay_is_at_least_what_the_nuclear_norm_of_logits_costs(sizes, decays, price, seed, activation):
    """D(z) = (L/2) C z^{2/L} ≤ decay at any parameters, and a shallow problem prices z as it is asked to.

    Its decay at balanced factors of logits is √(N λ_H λ_A) z, which the line of its minimum takes off again.
    """
    problem = deep(lambda_H=decays[0], lambda_W=decays[1:3], lambda_A=decays[3], bias=False, activation=activation)
    drawn = problem.init(seed)
    params = drawn._replace(
        H=drawn.H * sizes[0], W=(drawn.W[0] * sizes[1], drawn.W[1] * sizes[2]), A=drawn.A * sizes[3]
    )
    X = params.H.T
    for W in params.W:
        X = W @ X if activation == "linear" else np.maximum(W @ X, 0.0)
    N = problem.num_samples
    z = np.linalg.norm((params.A @ X) / np.sqrt(N), "nuc")
    squares = np.array([np.sum(part**2) for part in (params.H, *params.W, params.A)])
    decay = 0.5 * np.array(decays) @ squares
    assert decay_of(problem, z) <= decay * (1 + 1e-12)
    if z > 0:
        assert_allclose(price_at(problem, decay_of(problem, z)) * z, decay_of(problem, z), rtol=1e-9)
    below = shallow(problem, price)
    assert_allclose(np.sqrt(N * below.lambda_H * below.lambda_A), price, rtol=1e-14)
    assert not below.widths


def decay_of(problem, z):
    """D(z) of four factors."""
    return 2.0 * scale_of(problem) * z**0.5


@hypothesis.given(
    lines=st.lists(st.tuples(st.floats(1e-3, 1e2), st.floats(0.01, 5.0)), min_size=1, max_size=6),
    decay=st.floats(1e-3, 1.0),
)
def test_a_bound_of_lines_is_their_largest_plus_decay_at_its_least(lines, decay):
    """Against a fine grid of z: concave between kinks, the sum is nowhere below what it is at these."""
    problem = deep(lambda_H=decay)
    bound, where = bound_of(problem, [Line(*line) for line in lines])
    kinks = [(b - y) / (a - x) for (a, b), (x, y) in itertools.combinations([*lines, (0.0, 0.0)], 2) if a != x]
    z = np.concatenate([[0.0], np.geomspace(1e-9, 1e6, 2000), [kink for kink in kinks if kink > 0]])
    prices, heights = np.array([*lines, (0.0, 0.0)]).T
    total = np.max(heights[:, None] - prices[:, None] * z, axis=0) + decay_of(problem, z)
    assert_allclose(bound, total.min(), rtol=1e-9, atol=1e-12)
    assert where is None or where[0].price > where[1].price


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_a_zero_point_is_certified_where_decay_is_large(activation):
    """There the shallow problem beneath has its minimum at zero too, and both values are log K."""
    problem = deep(lambda_H=0.5, lambda_A=2.0, lambda_W=1.5, activation=activation)
    best = ufm.minimize(problem)
    assert best.degenerate
    assert best.certified
    assert_allclose(best.value, np.log(3), rtol=1e-12)


@pytest.mark.parametrize(("K", "hidden", "most"), [(3, 1, None), (6, 3, None), (10, 3, 0.0440)])
def test_relu_layers_end_below_every_construction(K, hidden, most):
    """Súkeník et al. (2024): low rank is below collapse for K = 10 and four layers, and L-BFGS goes below both."""
    problem = ufm.Problem(
        num_classes=K,
        dim=K,
        per_class=1,
        loss=ufm.SquaredError(),
        lambda_A=2e-3,
        lambda_H=2e-3,
        lambda_W=2e-3,
        bias=False,
        widths=(K,) * hidden,
        activation="relu",
    )
    best = ufm.minimize(problem, max_steps=FEW)
    for built in constructions(np.eye(K), (K,) * (1 + hidden)):
        assert best.value <= value(built.complexity, 2e-3, 2 + hidden) + 1e-12
    assert not best.certified
    assert most is None or best.value <= most


def test_dimensions_that_no_direction_needs_change_nothing():
    """More columns of H, or of linear layers, than min(M, K) are zero at the minimum that is found."""
    narrow, wide = deep(dim=3, widths=(3, 3)), deep(dim=50, widths=(40, 30))
    assert (least_dim(wide), least_widths(wide)) == (3, (3, 3))
    assert_allclose(ufm.minimize(wide).value, ufm.minimize(narrow).value, rtol=1e-12)
    relu = deep(dim=50, widths=(40, 30), activation="relu")
    assert (least_dim(relu), least_widths(relu)) == (3, (40, 30))
    fixed = deep(classifier=ufm.Fixed(np.eye(3, 30)), lambda_A=0.0, dim=50, widths=(40, 30))
    assert (least_dim(fixed), least_widths(fixed)) == (3, (3, 30))


def test_a_fixed_classifier_stays():
    matrix = np.random.default_rng(0).normal(size=(3, 5))
    problem = deep(classifier=ufm.Fixed(matrix), lambda_A=0.0)
    best = ufm.minimize(problem)
    assert np.array_equal(best.params.A, matrix)
    assert_allclose(problem.objective(best.params), best.value, rtol=1e-12)
    assert best.grad_norm <= 1e-8


@pytest.mark.parametrize(
    "words",
    [
        {"classifier": ufm.Nonnegative(), "bias": False},
        {"features": ufm.Nonnegative(), "bias": False},
        {"targets": ufm.Targets([[-0.2]], counts=[2]), "activation": "relu", "loss": ufm.SquaredError()},
        {"targets": ufm.Targets([[0.0, 0.0]], counts=[2]), "activation": "relu", "loss": ufm.SquaredError()},
    ],
)
def test_starts_are_of_the_problems_sizes_and_finite(words):
    """Where more columns than directions can't be rotated away, and where targets less their mean are zero."""
    problem = deep(**words)
    best = ufm.minimize(problem, max_steps=FEW)
    assert_allclose(problem.objective(best.params), best.value, rtol=1e-12, atol=1e-300)
    assert best.lower_bound <= best.value <= problem.objective(problem.init())


def test_many_factors_at_random_find_what_few_miss():
    """Narrow layers have minima that start at no construction: L-BFGS from 25 points of other sizes found it."""
    words = {"dim": 2, "per_class": (2, 5, 4), "widths": (2, 1), "lambda_W": (1.5553e-2, 8.5427e-3)}
    best = ufm.minimize(deep(lambda_A=2.8079e-2, lambda_H=1.0467e-2, **words))
    assert best.value < 0.16926


def test_factors_at_random_are_drawn_again_where_relus_let_nothing_pass():
    """Of one neuron after another each lets nothing pass for one of two signs."""
    lane = lane_of(deep(widths=(1, 1, 1), lambda_W=1e-2, activation="relu"))
    for seed in range(20):
        X, *layers = (f.of(random_factors(lane, np.random.default_rng(seed))) for f in lane.factors())
        for W in layers[:-1]:
            X = np.maximum(X @ W.T, 0.0)
        assert np.any(X)


def test_decay_of_hidden_layers_alone_keeps_values_from_the_infimum():
    """Then no value is the loss's infimum, by which nothing near it is certified, however small the decay."""
    words = {"features": ufm.Ball(1.0), "classifier": ufm.Ball(1.0), "lambda_A": 0.0, "lambda_H": 0.0}
    problem = deep(loss=ufm.SquaredError(), lambda_W=1e-14, **words)
    assert relative_gap(problem, 3e-14, 0.0) == 1.0


def test_several_problems_are_as_each_alone():
    problems = [deep(lambda_A=decay) for decay in (4e-3, 8e-3)]
    together = ufm.minimize([*problems, deep(activation="relu")], max_steps=100)
    for found, problem in zip(together, problems, strict=False):
        assert_allclose(found.value, ufm.minimize(problem, max_steps=100).value, rtol=1e-9)
    assert together[2].problem.activation == "relu"


def test_a_race_goes_on_with_the_better_half():
    """Rosenbrock's valley from many starts: the lanes that are dropped have taken one round's evaluations."""

    def fun(x, args):
        return (1 - x[0]) ** 2 + args["steep"] * (x[1] - x[0] ** 2) ** 2

    starts = np.random.default_rng(0).normal(size=(2, 8)) * 3
    owners = [0, 0, 0, 0, 1, 1, 1, 1]
    with float64():
        found = race.minimize(
            fun, starts, {"steep": np.full(8, 1e6)}, owners=owners, max_steps=5000, polish=False, tol=1e-12
        )
    assert np.all(found.steps <= 5000)
    for mine in (slice(0, 4), slice(4, 8)):
        assert found.value[mine].min() < 1e-12
        assert found.steps[mine][np.argmin(found.value[mine])] >= found.steps[mine].min()


def test_the_bound_that_is_known_in_closed_form_can_be_traced():
    """`dual_bound` of a known problem is the certified minimum's bound, rounded down, and −∞ of a traced one."""
    problem = deep(loss=ufm.SquaredError(), per_class=(5, 2, 1))
    params, best = problem.init(), ufm.minimize(problem)
    with float64():
        assert_allclose(jax.jit(lambda params: ufm.dual_bound(problem, params))(params), best.lower_bound, rtol=1e-13)
        assert ufm.dual_bound(problem, params) <= best.lower_bound
        assert jax.jit(ufm.dual_bound)(problem, params) == -np.inf


def test_shallow_problems_beyond_legal_decays_are_none():
    assert shallow(deep(), 1e-200) is None
    bounded = deep(lambda_A=0.0, classifier=ufm.Ball(1.0))
    assert scale_of(bounded) == 0
    assert ufm.lower_bound(bounded, bounded.init()) == 0


def test_minima_are_saved_with_their_layers(tmp_path):
    best = minimum("relu")
    best.save(tmp_path / "best.npz")
    loaded = ufm.load(tmp_path / "best.npz")
    assert loaded.value == best.value
    for ours, theirs in zip(loaded.params.W, best.params.W, strict=True):
        assert np.array_equal(ours, theirs)

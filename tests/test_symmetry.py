"""The problem on sizes is the problem as posed, for points that treat classes of one size alike."""

import dataclasses

import jax
import numpy as np
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

import ufm
from ufm._core.linalg import operator_norm
from ufm._core.precision import float64
from ufm.minima.block_bound import value_and_bound
from ufm.minima.blocks import BlockPoint, Blocks, curvature, objective, risk, with_bias
from ufm.minima.symmetry import at_sectors, blocks_of, sectors_of, symmetric
from ufm.model.losses import ON_SIZES, declares

LOSSES = (ufm.CrossEntropy(), ufm.LabelSmoothing(0.1), ufm.SquaredError())
BIASES = "none", "free", "regularised"


def blocks(multiplicities, counts, *, loss=LOSSES[0], price=1e-3, bias="free", lambda_b=1e-2, weights=None):
    """A problem on sizes whose price says it all; N is that of its classes."""
    m, n = np.asarray(multiplicities, float), np.asarray(counts, float)
    w = np.ones_like(n) if weights is None else np.asarray(weights, float)
    ridge = lambda_b if bias == "regularised" else 0.0
    return Blocks(n, w, m, float(m @ n), round(float(m.sum())), loss, float(price), ridge, bias)


def random_point(problem, seed, scale=1.0):
    """Any point: C that the gauge of no loss or bias restricts."""
    random, G = np.random.default_rng(seed), problem.num_sizes
    u = np.where(problem.several, random.normal(size=G), 0.0)
    b = random.normal(size=G) if problem.bias_kind != "none" else np.zeros(G)
    return BlockPoint(scale * problem.scale * random.normal(size=(G, G)), scale * u, b)


def whole(problem, point):
    """Logits (K, K) without bias, biases, counts and weights of all classes, written out from the definition."""
    sizes = np.repeat(np.arange(problem.num_sizes), problem.multiplicities.astype(int))
    B = point.C / np.sqrt(np.outer(problem.counts * problem.multiplicities, problem.multiplicities))
    Z, same = B[np.ix_(sizes, sizes)], sizes[:, None] == sizes
    Z = Z - same * (point.u / problem.multiplicities)[sizes] + np.diag(point.u[sizes])
    return Z, point.b[sizes], problem.counts[sizes], problem.weights[sizes]


def value_as_posed(problem, point):
    """Σ ω_k ℓ(z_k + b, k) + c ‖diag(n)^{1/2} Z‖_* + λ_b/2 ‖b‖² of K classes."""
    Z, b, n, w = whole(problem, point)
    with float64():
        losses = problem.loss(Z + b, np.arange(len(b)))
    nuclear = np.linalg.svd(np.sqrt(n)[:, None] * Z, compute_uv=False).sum()
    return (w * n / problem.num_samples) @ losses + problem.price * nuclear + problem.lambda_b / 2 * b @ b


@st.composite
def problems(draw, whole_numbers=True):
    """Sizes of at most 8 classes in all, of any loss, bias and price."""
    m = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda m: sum(m) > 1))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    real = np.asarray(m) if whole_numbers else np.asarray(m) + random.uniform(0, 1, len(m))
    return blocks(
        real,
        np.floor(10.0 ** random.uniform(0, 3, len(m))),
        loss=draw(st.sampled_from(LOSSES)),
        price=10.0 ** random.uniform(-5, 0),
        bias=draw(st.sampled_from(BIASES)),
        lambda_b=10.0 ** random.uniform(-5, 0),
        weights=draw(st.sampled_from((np.ones(len(m)), 10.0 ** random.uniform(-1, 1, len(m))))),
    )


ALIKE = np.array([[1.0, 3.0, 0.0], [2.0, 0.0, 2.0]])  # wrong classes of three kinds, of two samples, K = 5


def spread(right, wrong):
    """Logits, or slopes, (2, 5) of all classes, the right one first."""
    return np.stack([np.r_[r, np.repeat(w, a.astype(int))] for r, w, a in zip(right, wrong, ALIKE, strict=True)])


def drawn(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=2), random.normal(size=(2, 3))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_loss_on_sizes_is_the_loss_of_all_classes(loss):
    right, wrong = drawn()
    found, labels = loss.on_sizes(right, wrong, ALIKE), np.zeros(2, int)
    Z = spread(right, wrong)
    np.testing.assert_allclose(found.value, loss(Z, labels), rtol=1e-14)
    d, q = loss.curvature(Z, labels)
    mine, along = spread(found.factor_right, found.factor), spread(found.curvature, found.diagonal)
    np.testing.assert_allclose(mine, q, atol=1e-15)
    np.testing.assert_allclose(along[:, 1:], d[:, 1:], atol=1e-15)
    np.testing.assert_allclose(along[:, 0], d[:, 0] - q[:, 0] ** 2, atol=1e-15)
    for j, slope in enumerate(spread(found.right, found.wrong).T):
        step = 1e-5 * (np.arange(5) == j)  # central differences, good to its square
        np.testing.assert_allclose((loss(Z + step, labels) - loss(Z - step, labels)) / 2e-5, slope, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_conjugate_on_sizes_is_fenchels_equality_at_slopes(loss):
    """ℓ*(s) + ℓ(z) = ⟨s, z⟩ at s = ∇ℓ(z), and ∇ℓ*(s) is z, but for the shift that a loss ignores."""
    right, wrong = drawn()
    at = loss.on_sizes(right, wrong, ALIKE)
    found = loss.conjugate_on_sizes(at.right, at.wrong, ALIKE)
    s, z = spread(at.right, at.wrong), spread(right, wrong)
    np.testing.assert_allclose(found.value, np.sum(s * z, axis=1) - at.value, rtol=1e-13)
    np.testing.assert_allclose(found.value, loss.conjugate(s, np.zeros(2, int)), rtol=1e-13)
    back = spread(found.right, found.wrong) - z
    np.testing.assert_allclose(back, back[:, :1] * loss.ignores_shift + np.zeros(5), atol=1e-13)


def test_cross_entropy_on_sizes_keeps_all_digits_where_it_is_small():
    """At a lead of 50 over 3 · 10⁹ classes the loss is x − x²/2 with x = 3 · 10⁹ e⁻⁵⁰, and so is 1 − p."""
    at = ufm.CrossEntropy().on_sizes(np.array([50.0]), np.zeros((1, 1)), np.array([[3e9]]))
    x = 3e9 * np.exp(-50.0)
    np.testing.assert_allclose(at.value, np.log1p(x), rtol=1e-14)
    np.testing.assert_allclose(-at.right, x / (1 + x), rtol=1e-14)
    np.testing.assert_allclose(at.curvature, x / (1 + x) ** 2, rtol=1e-14)


def test_who_replaces_a_formula_loses_its_form_on_sizes():
    class Other(ufm.CrossEntropy):
        def of_columns(self, logits, label):
            return 2.0 * super().of_columns(logits, label)

    assert all(declares(loss, name) for loss in LOSSES for name in ON_SIZES)
    assert not any(declares(loss, name) for loss in (Other(), ufm.Focal(2.0), ufm.DotRegression()) for name in ON_SIZES)


class Declared:
    """A user's loss: half cross-entropy, with its form on sizes."""

    convex, infimum, ignores_shift = True, 0.0, True

    def __call__(self, logits, label):
        return 0.5 * (jax.nn.logsumexp(logits) - logits[label])

    def on_sizes(self, right, wrong, alike):
        return type(found := LOSSES[0].on_sizes(right, wrong, alike))(
            *(0.5 * part for part in found[:5]), *(np.sqrt(0.5) * part for part in found[5:])
        )

    def conjugate_on_sizes(self, right, wrong, alike):
        found = LOSSES[0].conjugate_on_sizes(2.0 * right, 2.0 * wrong, alike)
        return found._replace(value=0.5 * found.value)


def test_symmetry_asks_for_facts_alone():
    assert symmetric(zoo.problem())
    for words in (
        {"loss": Declared()},  # nothing says that its form on sizes is of the same loss
        {"loss": ufm.Focal(2.0)},
        {"loss": ufm.DotRegression()},
        {"lambda_A": 0.0},
        {"features": ufm.Nonnegative()},
        {"features": ufm.Ball(2.0)},
        {"lambda_H": 0.0, "features": ufm.Sphere(2.0)},
        {"lambda_A": 0.0, "classifier": ufm.Fixed.etf(3, 4)},
    ):
        assert not symmetric(zoo.problem(**words)), words


def test_any_form_on_sizes_is_solved():
    """Half the loss at half the price is half the problem."""
    from ufm.minima.proximal_newton import solve

    ours = blocks((2, 1, 3), (7, 20, 1), price=1e-2)
    half = dataclasses.replace(ours, loss=Declared(), price=5e-3)
    np.testing.assert_allclose(solve(half).value, 0.5 * solve(ours).value, rtol=1e-12)


def test_classes_merge_where_count_and_weight_are_equal():
    problem = zoo.problem(num_classes=5, per_class=[3, 7, 3, 3, 7], class_weights=[1.0, 2.0, 1.0, 0.5, 2.0])
    found, size_of = blocks_of(problem)
    np.testing.assert_array_equal(found.counts[size_of], problem.class_counts)
    np.testing.assert_array_equal(found.weights[size_of], problem.class_weights)
    np.testing.assert_array_equal(np.sort(found.multiplicities), [1, 2, 2])
    np.testing.assert_array_equal(found.multiplicities, np.bincount(size_of))
    assert found.num_samples == problem.num_samples
    np.testing.assert_allclose(found.omega[size_of], problem.class_weights * problem.class_counts / 23)


@given(problems(), st.integers(0, 2**32 - 1))
def test_the_objective_on_sizes_is_that_of_all_classes(problem, seed):
    """ℝ^K is the sum of sectors, on which diag(n)^{1/2} Z is C, and √n_g u_g times an identity of m_g − 1 rows."""
    point = random_point(problem, seed)
    np.testing.assert_allclose(objective(problem, point), value_as_posed(problem, point), rtol=1e-12)


@given(problems(whole_numbers=False), st.integers(0, 2**32 - 1))
def test_slopes_and_curvature_are_derivatives(problem, seed):
    """Central differences with steps h, good to h²: of the risk along (F, u), and of its slopes."""
    point, way, h = random_point(problem, seed, 0.5), random_point(problem, seed + 1), 1e-5
    F, dF = (with_bias(problem, each) for each in (point, way))
    dF = dF / np.linalg.norm(dF)
    ahead, behind = (risk(problem, F + t * dF, point.u + t * way.u) for t in (h, -h))
    here = risk(problem, F, point.u)
    along_u = problem.others * np.sqrt(problem.counts) * here.along_u @ way.u
    slope = np.sum(here.along_C * dF) + along_u
    size = 1e-6 * (abs(slope) + np.sum(problem.shares))
    assert abs((ahead.value - behind.value) / (2 * h) - slope) <= size
    alive = problem.several
    found = curvature(problem, here.at, alive)
    moved = found @ dF
    # R holds what is taken off where u follows; with u moved by hand it is put back, and what u brings is added
    with_u = np.sum(found.R * dF, axis=1) + np.where(alive, found.u_units, 0.0) * way.u
    moved = moved + found.R * with_u[:, None]
    by_differences = (ahead.along_C - behind.along_C) / (2 * h)
    assert np.max(np.abs(by_differences - moved)) <= 1e-6 * (1 + np.max(np.abs(moved)))
    of_u = problem.others * np.sqrt(problem.counts) * (ahead.along_u - behind.along_u) / (2 * h)
    assert np.max(np.abs(of_u - found.u_units * with_u)) <= 1e-6 * (1 + np.max(np.abs(of_u)))


def check_bound(problem, seed):
    """Weak duality: a bound from any point is below the value at any point, so below the minimum."""
    point = random_point(problem, seed, 10.0 ** np.random.default_rng(seed).uniform(-3, 1))
    value, bound = value_and_bound(problem, point)
    zero = BlockPoint(0 * point.C, 0 * point.u, 0 * point.b)
    others = [zero, random_point(problem, seed + 1, 0.1), random_point(problem, seed + 2, 1.0)]
    assert bound <= value
    assert all(bound <= objective(problem, other) for other in others)
    return bound


@given(problems(whole_numbers=False), st.integers(0, 2**32 - 1))
def test_a_bound_from_any_point_is_below_the_minimum(problem, seed):
    from ufm.minima.proximal_newton import solve

    best = solve(problem)
    assert check_bound(problem, seed) <= best.value
    assert best.lower_bound <= best.value


@given(problems())
def test_the_infimum_is_a_bound(problem):
    """The dual point zero: −Σ m_g ω_g ℓ_g*(0), whatever the point."""
    point = random_point(problem, 0, 30.0)
    none = np.zeros(problem.num_sizes), np.zeros((problem.num_sizes,) * 2)
    infimum = -problem.shares @ problem.loss.conjugate_on_sizes(*none, problem.alike).value
    assert value_and_bound(problem, point)[1] >= infimum - 1e-12 * (1 + abs(infimum))


def test_the_operator_norm_is_the_largest_singular_value():
    matrix = np.random.default_rng(0).normal(size=(7, 7)) * 1e-200
    np.testing.assert_allclose(operator_norm(matrix), np.linalg.norm(matrix, 2), rtol=1e-14)
    assert operator_norm(np.zeros((3, 3))) == 0.0


def lifted(problem, sectors):
    """H, A and b of the problem as posed, from the definition of sectors: q_k in axes of their size's own."""
    m, K = sectors.multiplicities, len(sectors.size_of)
    same = sectors.size_of[:, None] == sectors.size_of
    own = np.eye(K) - same / m[sectors.size_of]
    M, A = (part[sectors.size_of] / np.sqrt(m[sectors.size_of])[:, None] for part in sectors[1:3])
    means = np.concatenate([M, sectors.standard_H[sectors.size_of][:, None] * own], axis=1)
    A = np.concatenate([A, sectors.standard_A[sectors.size_of][:, None] * own], axis=1)
    return ufm.Params(np.repeat(means, problem.class_counts, axis=0), A, sectors.b[sectors.size_of])


@pytest.mark.parametrize("bias", BIASES)
def test_lifted_factors_have_the_objective_and_the_gradient_of_the_problem_as_posed(bias):
    """Balanced factors cost c times the nuclear norm; a sample's gradient is the n_m-th part of its group's."""
    words = {"bias": bias != "none", "lambda_b": 1e-2 if bias == "regularised" else 0.0}
    problem = zoo.problem(num_classes=5, dim=12, per_class=[3, 7, 3, 7, 7], lambda_A=3e-2, lambda_H=1e-3, **words)
    found, size_of = blocks_of(problem)
    point = random_point(found, 0, 0.3)
    sectors, rank = sectors_of(problem, found, size_of, point)
    assert rank == 3 + 2
    np.testing.assert_array_equal(sectors.size_of, size_of)
    np.testing.assert_allclose(np.sqrt(found.counts)[:, None] * sectors.trivial_H @ sectors.trivial_A.T, point.C)
    np.testing.assert_allclose(sectors.standard_H * sectors.standard_A, point.u)
    params = lifted(problem, sectors)
    params = params._replace(H=np.pad(params.H, ((0, 0), (0, 5))), A=np.pad(params.A, ((0, 0), (0, 5))))
    problem = dataclasses.replace(problem, dim=12)
    np.testing.assert_allclose(0.03 * np.sum(params.A**2), 0.001 * np.sum(params.H**2), rtol=1e-12)
    np.testing.assert_allclose(problem.objective(params), objective(found, point), rtol=1e-12)
    with float64():
        gradient = jax.jit(jax.grad(problem.objective))(params)
        parts = gradient[:3] if bias != "none" else gradient[:2]
        norm = np.sqrt(sum(float(np.sum(np.asarray(part) ** 2)) for part in parts))
    np.testing.assert_allclose(at_sectors(problem, found, sectors), (objective(found, point), norm), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_bound_is_above_a_value_in_many_tries(seed):
    random = np.random.default_rng(seed)
    for case in range(1000):
        G = random.integers(1, 6)
        problem = blocks(
            np.floor(10.0 ** random.uniform(0, 4, G)) + 1.0,
            np.floor(10.0 ** random.uniform(0, 5, G)),
            loss=LOSSES[random.integers(3)],
            price=10.0 ** random.uniform(-8, 0),
            bias=BIASES[random.integers(3)],
            lambda_b=10.0 ** random.uniform(-8, 1),
            weights=10.0 ** random.uniform(-1, 1, G),
        )
        check_bound(problem, 10_000 * seed + case)


def test_bounds_of_a_bias_far_from_the_best_are_of_slopes_that_sum_to_zero():
    """Slopes of a bias that doesn't converge are shifted by as much as they are: what that leaves is shifted again."""
    weights = [2e-6, 1e-6, 1e6]
    p = zoo.problem(dim=3, per_class=1, lambda_A=1e6, lambda_H=1e6, class_weights=weights)
    minimum = p.objective(ufm.Params(np.zeros((3, 3)), np.zeros((3, 3)), np.log(weights)))  # the zero point is the best
    found, _ = blocks_of(p)
    random = np.random.default_rng(0)
    for _ in range(100):
        H, A, b = (random.normal(size=shape) * 10.0 ** random.uniform(0, 2) for shape in ((3, 3), (3, 3), 3))
        assert ufm.lower_bound(p, ufm.Params(H, A, b)) <= minimum * (1 + 1e-15)
        point = BlockPoint(*(10.0 ** random.uniform(-3, 3) * random.normal(size=shape) for shape in ((3, 3), 3, 3)))
        assert value_and_bound(found, point)[1] <= minimum * (1 + 1e-15)


def test_slopes_that_round_to_zero_leave_another_start():
    words = {"num_classes": 2, "dim": 2, "per_class": 1, "lambda_A": 1e-10, "lambda_H": 1e-10, "bias": False}
    best = ufm.minimize(zoo.problem(class_weights=[1e3, 1e6], **words))
    assert best.certified

"""The hard margin: closed forms, independent solvers, proofs from both sides, and support vector machines."""

import dataclasses
import itertools
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.svm import SVC, LinearSVC
from terminal import run

import ufm
from ufm import theory
from ufm.minima import margin_splitting
from ufm.minima.margins import centred_supports, lower_bound, priced, supports_of
from ufm.theory.max_margin import least_loss, widest

NONE = {"lambda_A": 0.0, "lambda_H": 0.0}
IMBALANCED = (10, 5, 2, 1)


def labelled(K=4, counts=1, dim=None, **words):
    """Class labels without weight decay."""
    return ufm.Problem(num_classes=K, per_class=counts, dim=dim or K, **{**NONE, **words})


def sparse(supports, counts=1, dim=8, bias=False, outputs=None, **words):
    """Equal probabilities on supports, which are lists of outputs."""
    rows = np.zeros((len(supports), outputs or 1 + max(map(max, supports))))
    for row, support in zip(rows, supports, strict=True):
        row[list(support)] = 1 / len(support)
    return ufm.Problem(targets=ufm.Targets(rows, counts), dim=dim, bias=bias, **{**NONE, **words})


def wanted(problem):
    """(N, K) outputs that each sample wants."""
    rows = np.eye(problem.num_classes) if problem.targets is None else np.asarray(problem.targets.rows)
    return rows[problem.labels] > 0


def assert_feasible(margin, tol=1e-12):
    """That parameters of every sample have margins of 1, are as large as is said, and balanced."""
    H, A, b, _ = margin.params
    Z, on = H @ A.T + b, wanted(margin.problem)
    lowest = np.min(np.where(on, Z, np.inf), axis=1)
    assert np.min(lowest - np.max(np.where(on, -np.inf, Z), axis=1)) >= 1 - tol
    assert np.max(np.max(np.where(on, Z, -np.inf), axis=1) - lowest) <= tol
    assert_allclose([np.sum(H**2), np.sum(A**2)], margin.value, rtol=1e-12)
    assert margin.problem.bias or not np.any(b)


def by_slsqp(problem, starts=3):
    """½(‖A‖² + ‖H‖²) with margins of 1, over the factors of every group, by SciPy."""
    n, (M, K), d = problem.group_counts, (problem.num_groups, problem.num_classes), problem.dim
    on = wanted(problem)[np.cumsum(n) - n]
    first = np.argmax(on, axis=1)
    rows = np.arange(M)
    same = on.copy()
    same[rows, first] = False

    def logits(x):
        A, H, b = np.split(x, [K * d, (K + M) * d])
        return H.reshape(M, d) @ A.reshape(K, d).T + (b if problem.bias else 0.0)

    def leads(x):
        Z = logits(x)
        return Z[rows, first][:, None] - Z

    def size(x):
        return 0.5 * np.sum(x[: K * d] ** 2) + 0.5 * n @ np.sum(x[K * d : (K + M) * d].reshape(M, d) ** 2, axis=1)

    def slopes(x):
        scale = np.concatenate([np.ones(K * d), np.repeat(n, d), np.zeros(K)])
        return scale * x

    conditions = [{"type": "ineq", "fun": lambda x: leads(x)[~on] - 1.0}]
    if np.any(same):
        conditions.append({"type": "eq", "fun": lambda x: leads(x)[same]})
    draw = np.random.default_rng(0)
    found = (
        scipy.optimize.minimize(
            size,
            draw.normal(size=(K + M) * d + K),
            jac=slopes,
            constraints=conditions,
            method="SLSQP",
            options={"maxiter": 2000, "ftol": 1e-13},
        )
        for _ in range(starts)
    )
    return min(float(each.fun) for each in found if each.success and np.min(leads(each.x)[~on]) > 1 - 1e-7)


# --- class labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "n"), [(2, 1), (3, 4), (7, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_balanced_labels_have_the_simplex_for_their_direction(K, n, bias):
    """Z = P = I − J/K has K − 1 singular values √n of D^{1/2}Z: V = (K−1)√n, and a simplex ETF on both sides."""
    margin = ufm.max_margin(labelled(K, n, bias=bias))
    assert_allclose(margin.value, (K - 1) * np.sqrt(n), rtol=1e-13)
    assert margin.certified
    assert margin.gap <= 1e-12 * margin.value
    assert margin.steps == 0
    assert_allclose(margin.logits - margin.logits.mean(axis=1, keepdims=True), np.eye(K) - 1 / K, atol=1e-13)
    assert max(margin.metrics.nc1, margin.metrics.nc2, margin.metrics.nc3) <= 1e-12
    assert_feasible(margin)


@pytest.mark.parametrize("bias", [True, False])
def test_imbalanced_labels_have_simplex_encoded_labels_for_their_direction(bias):
    """V = tr (P D P)^{1/2}, and with a free bias tr (D − nnᵀ/N)^{1/2}, whatever weights and decays are.

    Squares of singular values of D^{1/2}P are eigenvalues of PDP; of D^{1/2}(I − 1πᵀ) those of D − nnᵀ/N.
    """
    n = np.array(IMBALANCED)
    P = np.eye(4) - 0.25
    gram = np.diag(n) - np.outer(n, n) / n.sum() if bias else P @ np.diag(n) @ P
    margin = ufm.max_margin(labelled(4, n, bias=bias, class_weights=[1, 2, 0.5, 3], lambda_A=1e-2, lambda_H=3e-3))
    assert_allclose(margin.value, np.sum(np.sqrt(np.linalg.eigvalsh(gram)[1:])), rtol=1e-13)
    assert margin.certified
    if bias:  # up to a constant
        assert_allclose(margin.b - margin.b[0], n / n.sum() - n[0] / n.sum(), atol=1e-13)
    assert_feasible(margin)


def test_a_decayed_bias_is_none():
    none, decayed = (ufm.max_margin(labelled(4, IMBALANCED, **words)) for words in ({"bias": False}, {"lambda_b": 0.1}))
    assert none.value == decayed.value
    assert not np.any(decayed.b)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=12), st.booleans())
@settings(max_examples=30, deadline=None)
def test_labels_of_any_counts_are_proved_by_one_decomposition(counts, bias):
    margin = ufm.max_margin(labelled(len(counts), counts, bias=bias))
    assert margin.certified
    assert margin.gap <= 1e-12 * margin.value
    assert margin.steps == 0


def test_as_many_classes_as_a_vocabulary_has():
    """With two counts, D − nnᵀ/N has the eigenvalues n_g, m_g − 1 times each, one more, and zero.

    The one more is what these leave of the trace, Σ n − Σ n²/N.
    """
    n = np.repeat([7, 2], [384, 16_000])
    value = 383 * np.sqrt(7) + 15_999 * np.sqrt(2)
    value += np.sqrt(n.sum() - np.sum(n**2) / n.sum() - 383 * 7 - 15_999 * 2)
    margin = ufm.max_margin(labelled(len(n), n))
    assert_allclose(margin.value, value, rtol=1e-13)
    assert margin.certified
    assert 0 < margin.metrics.nc2 < 1


@pytest.mark.parametrize("bias", [True, False])
def test_sizes_of_classes_and_supports_say_the_same(bias):
    """Classes of equal count by their sectors, and all of them by the matrix of supports: values, proofs and logits."""
    margin = ufm.max_margin(labelled(6, (5, 2, 5, 2, 2, 9), bias=bias))
    best, bound = centred_supports(supports_of(margin.problem))
    assert_allclose([margin.value, margin.lower_bound], [best.value, bound], rtol=1e-12)
    centred = best.logits - best.logits.mean(axis=1, keepdims=True)
    assert_allclose(margin.logits - margin.logits.mean(axis=1, keepdims=True), centred, atol=1e-13)
    measured = ufm.measure(margin.params.H, margin.problem.labels, margin.params.A, margin.params.b)
    assert_allclose([each for _, each in margin.metrics.known()], [each for _, each in measured.known()], atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_classifier_is_the_support_vector_machine_of_the_features(bias):
    """Given H, A minimises ½‖A‖² with margins of 1: strictly convex, Crammer & Singer's machine of many classes.

    Of two classes the machine has a_1 − a_0 for its normal, and b_1 − b_0 for its offset.
    """
    counts = (4, 1)
    margin = ufm.max_margin(labelled(2, counts, dim=3, bias=bias))
    H, A, b, _ = margin.params
    y = margin.problem.labels
    if bias:
        machine = SVC(kernel="linear", C=1e10, tol=1e-10).fit(H, y)
        assert_allclose(machine.intercept_, b[1] - b[0], atol=1e-6)
        assert_allclose(machine.coef_[0], A[1] - A[0], atol=1e-6)
    margin = ufm.max_margin(labelled(4, IMBALANCED, dim=5, bias=False))
    H, A, _, _ = margin.params
    means, classes = margin.means, np.arange(4)
    machine = LinearSVC(multi_class="crammer_singer", C=1e6, fit_intercept=False, tol=1e-12, max_iter=10**6)
    machine.fit(means, classes)
    assert_allclose(machine.coef_, margin.A, atol=1e-6 * np.abs(margin.A).max())


# --- sparse targets --------------------------------------------------------------------------------------------------


def test_reference_values_of_sparse_supports():
    """Of next tokens: one whose solution is the centred supports, and the smallest one whose isn't, V = 1 + 2√(2/3)."""
    centred = ufm.max_margin(sparse([(0, 1), (1, 2), (2, 3, 4), (0,), (3, 4)], (3, 1, 2, 1, 4)))
    assert_allclose(centred.value, 5.541996632042, atol=1e-11)
    assert centred.steps == 0
    margin = ufm.max_margin(sparse([(1, 3), (1, 2), (0,)]))
    assert centred_supports(supports_of(margin.problem))[0].value > margin.value + 0.025
    assert_allclose(margin.value, 1 + 2 * np.sqrt(2 / 3), rtol=1e-11)
    assert_allclose(margin.logits[2], [5 / 6, -1 / 2, -1 / 6, -1 / 6], atol=1e-6)
    for each in (centred, margin):
        assert each.certified
        assert_feasible(each)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "supports", [[(1, 3), (1, 2), (0,)], [(0, 1), (1, 2), (0, 2, 3)]], ids=["three contexts", "overlapping"]
)
def test_values_are_those_of_a_solver_over_factors(supports, bias):
    problem = sparse(supports, (3, 1, 2), dim=3, bias=bias)
    assert_allclose(ufm.max_margin(problem).value, by_slsqp(problem), rtol=1e-7)


@st.composite
def drawn(draw):
    """Arguments of `sparse`: up to seven groups and outputs, each of which a group wants and the first doesn't."""
    M, K = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = random.random((M, K)) < draw(st.sampled_from((0.2, 0.5)))
    table[0, :2] = True, False
    table[1, 1] = True
    table[np.arange(M), random.integers(K, size=M)] |= np.arange(M) > 1
    table[random.integers(1, M, size=K), np.arange(K)] = True
    supports = tuple(tuple(np.flatnonzero(row)) for row in table)
    return supports, random.integers(1, 30, M), {"outputs": K, "bias": draw(st.booleans())}


@given(drawn())
@settings(max_examples=40, deadline=None)
def test_any_supports_are_solved_and_proved(drawn):
    supports, counts, words = drawn
    margin = ufm.max_margin(sparse(supports, counts, **words))
    assert margin.certified, margin
    assert 0 <= margin.gap <= 1e-8 * margin.value
    assert margin.status is ufm.Status.CONVERGED
    assert_feasible(margin)


@given(drawn())
@settings(max_examples=20, deadline=None)
def test_every_iterate_is_a_proof_from_both_sides(drawn):
    """Margins of at least 1; multipliers of the right sign whose sums vanish; and bounds below every feasible value."""
    groups, counts, words = drawn
    supports = supports_of(sparse(groups, counts, **words))
    off, left = ~supports.wanted, supports.roots[0]
    values, bounds = [], []
    for reached in margin_splitting.iterates(supports, 500):
        assert supports.spread(reached.logits) == 0
        assert_allclose(supports.margin(reached.logits), 1, rtol=1e-13)
        U = reached.multipliers
        size = np.abs(U).max()
        assert np.max(U[off]) <= 1e-15 * size
        assert_allclose(U.sum(axis=1), 0, atol=1e-13 * size)
        if supports.free_bias:
            assert_allclose(U.sum(axis=0), 0, atol=1e-13 * size)
        assert np.linalg.norm(U / left / supports.roots[1], 2) <= 1 + 1e-12
        values.append(priced(supports, reached.logits).value)
        bounds.append(lower_bound(supports, U))
    assert max(bounds) <= min(values)
    assert min(values) - max(bounds) <= 1e-9 * min(values)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_nearest_logits_that_meet_the_margins(seed):
    """A projection on a convex set: no feasible row is beyond, Σ c (x − p)(z − p) ≤ 0; what is feasible stays."""
    random = np.random.default_rng(seed)
    supports = supports_of(sparse([(0, 1), (1, 2), (3,)], random.integers(1, 9, 3)))
    supports = supports._replace(copies=random.uniform(0.5, 3.0, 4))
    step, c = supports.roots[0], supports.copies
    x, z = 3.0 * random.normal(size=(2, 3, 4))
    found, other = (margin_splitting.nearest(supports, rows) for rows in (x, z))
    for rows in (found, other):
        assert supports.spread(rows / step) == 0
        assert supports.margin(rows / step) >= 1 - 1e-12
    assert np.max(np.sum(c * (x - found) * (other - found), axis=1)) <= 1e-12
    assert_allclose(margin_splitting.nearest(supports, found), found, atol=1e-13)


def test_bounds_of_wrong_multipliers_prove_nothing():
    """A multiplier of the wrong sign; and sums that don't vanish raise the norm by as much."""
    supports = supports_of(labelled(3, bias=False))
    right = np.eye(3) - 1 / 3
    assert_allclose(lower_bound(supports, right), 2.0, rtol=1e-12)
    wrong = right.copy()
    wrong[0, 1] = 1e-3
    assert lower_bound(supports, wrong) == 0
    assert lower_bound(supports, right - 0.1 / 3) <= 2.0
    assert_allclose(lower_bound(supports, 7 * right), 2.0, rtol=1e-12)


@pytest.mark.parametrize("counts", [(1, 1), (1, 10**3), (1, 10**6), (1, 10**10), (7, 10**8)])
def test_no_bound_is_above_the_value_however_uneven_the_counts(counts):
    """Two classes with a free bias: rows √n_1 π_2 (1, −1) and √n_2 π_1 (−1, 1), of norm √(2 n_1 n_2 / N)."""
    margin = ufm.max_margin(ufm.Problem(2, 2, per_class=counts, lambda_A=0.0, lambda_H=0.0))
    truth = math.sqrt(2 * counts[0] * counts[1] / sum(counts))
    assert margin.certified
    assert margin.lower_bound <= truth * (1 + 1e-15)
    assert_allclose(margin.value, truth, rtol=1e-14)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 3, 6]))
@settings(max_examples=30, deadline=None)
def test_no_multipliers_prove_more_than_the_value(seed, decades):
    """Their sums needn't vanish: what is left of them counts against the bound."""
    random = np.random.default_rng(seed)
    counts = [int(10.0 ** random.uniform(0, decades)) for _ in range(3)]
    for bias in (True, False):
        supports = supports_of(ufm.Problem(3, 3, per_class=counts, bias=bias))
        U = np.eye(3) - random.uniform(size=(3, 3)) * 10.0 ** random.uniform(-3, 3, (3, 1))
        U[random.integers(3)] = 0.0
        assert lower_bound(supports, U) <= centred_supports(supports)[0].value * (1 + 1e-12)


def test_groups_of_equal_support_and_outputs_of_equal_groups_are_one():
    """By Jensen: splitting a group, other probabilities or weights, and unmerged outputs change nothing."""
    supports, counts = [(1, 3), (1, 2), (0,)], (3, 1, 2)
    best = ufm.max_margin(sparse(supports, counts))
    rows = np.array([[0, 0.9, 0, 0.1], [0, 0.2, 0, 0.8], [0, 0.5, 0.5, 0], [1, 0, 0, 0]])
    targets = ufm.Targets(rows, (2, 1, 1, 2), weights=[1, 5, 0.1, 2])
    split = ufm.max_margin(ufm.Problem(targets=targets, dim=8, bias=False))
    assert_allclose(split.value, best.value, rtol=1e-11)
    assert_allclose(split.logits, best.logits[[0, 0, 1, 2]], atol=1e-5)
    copied = sparse([(1, 3, 4), (1, 2), (0,)], counts)  # outputs 3 and 4 are wanted by the same groups
    merged = supports_of(copied)
    assert merged.copies.tolist() == [1, 1, 1, 2]
    apart = merged._replace(wanted=merged.wanted[:, merged.column], copies=np.ones(5), column=np.arange(5))
    found = [priced(apart, each.logits).value for each in margin_splitting.iterates(apart, 500)]
    assert_allclose(ufm.max_margin(copied).value, min(found), rtol=1e-10)


def test_order_does_not_matter():
    supports, counts = [(1, 3), (1, 2), (0,)], np.array((3, 1, 2))
    best = ufm.max_margin(sparse(supports, counts, bias=True))
    outputs, groups = np.array((2, 0, 3, 1)), np.array((2, 0, 1))
    moved = ufm.max_margin(sparse([outputs[list(supports[m])] for m in groups], counts[groups], bias=True))
    assert_allclose(moved.value, best.value, rtol=1e-11)
    assert_allclose(moved.logits[:, outputs], best.logits[groups], atol=1e-5)


def test_a_group_that_wants_all_outputs_has_no_features():
    """It has no margin: without a bias its logits are equal, and cost nothing."""
    margin = ufm.max_margin(sparse([(0,), (1,), (0, 1)], dim=2))
    assert_allclose(margin.value, 1.0, rtol=1e-12)  # two classes alone
    assert_allclose(margin.means[2], 0.0, atol=1e-12)


# --- fewer dimensions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [4, 5])
def test_in_the_plane_classes_stand_on_a_regular_polygon(K):
    """Rows of length r at angles 2π/K: margins r²(1 − cos 2π/K), so that V = K/(1 − cos 2π/K); the gap stays."""
    margin = ufm.max_margin(labelled(K, bias=False, dim=2))
    assert_allclose(margin.value, K / (1 - np.cos(2 * np.pi / K)), rtol=1e-10)
    assert_allclose(margin.lower_bound, K - 1, rtol=1e-10)
    assert not margin.certified
    assert margin.status is ufm.Status.CONVERGED
    assert_feasible(margin)


def test_on_a_line_classes_stand_evenly():
    """a_k = h_k = √2 (k − c), b_k = −k² + …: neighbours' margins are 1, and V = Σ 2(k − c)² = K(K² − 1)/6."""
    margin = ufm.max_margin(labelled(3, dim=1))
    assert_allclose(margin.value, 4.0, rtol=1e-10)
    assert_feasible(margin)


def test_without_room_nothing_is_found():
    """On a line without a bias only the first and the last class can lead."""
    margin = ufm.max_margin(labelled(3, dim=1, bias=False))
    assert margin.value == np.inf
    assert not margin.certified
    assert margin.status is ufm.Status.MAX_STEPS
    assert_allclose(margin.lower_bound, 2.0, rtol=1e-12)


def test_as_many_dimensions_as_the_solution_has_are_enough():
    """The third row's rank is 3 of at most 3; supports in fewer dimensions keep their differences at zero."""
    problem = sparse([(1, 3), (1, 2), (0,)], dim=2)
    margin = ufm.max_margin(problem)
    assert_feasible(margin)
    assert_allclose(margin.value, by_slsqp(problem), rtol=1e-7)


# --- the limit of minima, and what refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_minima_grow_by_the_value_for_each_factor_of_decay(bias):
    """‖Π^{1/2}Z*‖_* = (V/√N) log(1/ĉ) + O(1): increments over a decade of ĉ tend to V/√N log 10."""
    n = np.array(IMBALANCED)
    margin = ufm.max_margin(labelled(4, n, bias=bias))

    def price(decay):
        best = ufm.minimize(labelled(4, n, bias=bias, lambda_A=decay, lambda_H=decay))
        return np.sum(np.linalg.svd(np.sqrt(n)[:, None] * (best.means @ best.A.T), compute_uv=False))

    assert_allclose((price(1e-9) - price(1e-8)) / np.log(10), margin.value, rtol=5e-3)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (labelled(loss=ufm.SquaredError()), "loss = SquaredError.*ufm.CrossEntropy"),
        (labelled(loss=ufm.Focal(2.0)), "loss = Focal.*convex"),
        (labelled(loss=ufm.LabelSmoothing(0.1)), "loss = LabelSmoothing.*falls exponentially"),
        (labelled(features=ufm.Sphere(1.0)), "features = Sphere.*ufm.Free"),
        (labelled(classifier=ufm.Nonnegative()), "classifier = Nonnegative.*ufm.Free"),
        (labelled(classifier=ufm.Fixed.etf(4, 4)), "classifier = Fixed.*ufm.Free"),
        (labelled(widths=(3,)), r"widths = \(3,\).*without hidden layers"),
        (sparse([(0, 1), (0, 1)]), "targets: every entry.*a row with a zero"),
        (3, "problem = 3"),
    ],
    ids=lambda value: "" if isinstance(value, ufm.Problem) else str(value)[:20],
)
def test_what_has_no_such_direction_is_refused(problem, words):
    with pytest.raises(ValueError, match=words):
        ufm.max_margin(problem)


class OfAUser:
    """Exponentials of a user's own, of labels."""

    convex = falls_exponentially = True
    infimum = 0.0

    def __call__(self, logits, label):
        return jnp.sum(jnp.exp(logits - logits[label])) - 1.0


def test_a_loss_of_a_user_has_the_same_direction_if_it_says_so():
    problem = labelled(4, IMBALANCED, loss=OfAUser())
    assert ufm.max_margin(problem).value == ufm.max_margin(labelled(4, IMBALANCED)).value


def test_minimize_names_it_where_it_helps():
    with pytest.raises(ValueError, match=r"no minimum is attained.*ufm\.max_margin\(problem\)"):
        ufm.minimize(labelled())
    for words in ({"loss": ufm.SquaredError()}, {"lambda_A": 1e-3}, {"loss": ufm.Focal(1.0)}):
        with pytest.raises(ValueError, match="no minimum is attained") as refused:
            ufm.minimize(labelled(**words))
        assert "max_margin" not in str(refused.value)


def test_it_is_saved_and_reads_well(tmp_path):
    margin = ufm.max_margin(labelled(4, IMBALANCED, dim=6))
    margin.save(tmp_path / "margin.npz")
    loaded = ufm.load(tmp_path / "margin.npz")
    assert isinstance(loaded, ufm.Margin)
    assert repr(loaded) == repr(margin)
    assert_allclose(loaded.params.H, margin.params.H, rtol=0)
    assert "certified" in repr(margin)
    assert "5.35962646004" in margin._repr_html_()


def test_the_command_prints_saves_and_refuses(tmp_path, capsys):
    flags = ("--num-classes", 4, "--per-class", 10, 5, 2, 1, "--dim", 8)
    assert run("max-margin", *flags, "--save", tmp_path / "margin.npz") == 0
    assert "5.35962646004" in capsys.readouterr().out
    assert ufm.load(tmp_path / "margin.npz").certified
    assert run("max-margin", *flags, "--dim", 1, "--no-bias") == 1
    assert run("max-margin", *flags, "--loss", "focal") == 2
    assert "ufm: loss = Focal" in capsys.readouterr().err


# --- the theorem -----------------------------------------------------------------------------------------------------


def test_theory_and_solver_agree_on_the_widest_margins():
    """And multipliers add up to the value, Σ y = V, since every margin is 1."""
    for counts, bias in itertools.product((IMBALANCED, (3, 3, 3, 3), (5, 2, 2, 2)), (True, False)):
        problem = labelled(4, counts, bias=bias, class_weights=(1, 1, 2, 1))
        found = widest(problem)
        assert_allclose(found.least, ufm.max_margin(problem).value, rtol=1e-13)
        assert_allclose(found.multiplicities @ np.sum(found.others * found.multipliers, axis=1), found.least)
        said = {known.name: said for known, said in theory.applicable(problem)}["max-margin direction"]
        assert_allclose(list(said.thresholds.values()), 1 / found.least)
    assert "max-margin direction" not in {k.name for k, _ in theory.applicable(labelled(lambda_A=1e-3, lambda_H=1e-3))}


@given(st.integers(0, 2**32 - 1), st.floats(-2, 2), st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_factors_lose_less_than_their_size_allows(seed, log_size, bias):
    """Random factors, and those of the widest margins at every size, which attain it where classes are balanced."""
    random = np.random.default_rng(seed)
    weights = random.uniform(0.1, 3.0, 4)
    for counts, w in ((IMBALANCED, weights), ((3, 3, 3, 3), None)):
        problem = labelled(4, counts, class_weights=w, bias=bias)
        params = problem.init(seed, 10.0**log_size)
        size = 0.5 * (np.sum(params.H**2) + np.sum(params.A**2))
        assert problem.objective(params) >= least_loss(problem, size) * (1 - 1e-12)
        margin = ufm.max_margin(problem)
        H, A, b, _ = margin.params
        widening = 10.0**log_size
        along = ufm.Params(H * np.sqrt(widening), A * np.sqrt(widening), b * widening)
        least, lost = least_loss(problem, widening * margin.value), problem.objective(along)
        assert lost >= least * (1 - 1e-12)
        if w is None:
            assert_allclose(least, np.log1p(3 * np.exp(-widening)), rtol=1e-9)
            assert_allclose(lost, least, rtol=1e-9)


def test_a_run_without_decay_keeps_to_it(monkeypatch):
    """And fails where its margins are wider than the widest are said to be."""
    problem = labelled(3, (5, 3, 1), dim=4)
    trained = ufm.train(problem, optax.sgd(0.5), steps=200, snapshots=3, precision="float64")

    def claims(subject):
        return [claim for claim in ufm.verify(subject).claims if claim.theorem == "max-margin direction"]

    assert [claim.verdict for claim in claims(trained)] == ["holds", "holds"]
    H, A, b, _ = ufm.max_margin(problem).params
    at_widest = dataclasses.replace(trained, params=ufm.Params(H, A, b))
    assert [claim.verdict for claim in claims(at_widest)] == ["holds", "holds"]
    assert_allclose(claims(at_widest)[0].measured, 1.0, rtol=1e-12)
    denied = widest(problem)._replace(least=1.01 * widest(problem).least)
    monkeypatch.setattr("ufm.theory.max_margin.widest", lambda problem: denied)
    assert claims(at_widest)[0].verdict == "fails"

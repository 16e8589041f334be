"""Targets of groups of samples, and the builders of those that papers train towards."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import wrightomega

import ufm
from ufm import targets
from ufm._core.distinct import distinct_rows
from ufm.model.targets import Targets, check_columns, check_probabilities

EXACT = 1e-14
FANO = ((0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5))
SOFT = np.array([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])


@st.composite
def repeating(draw):
    """What makes targets some of whose groups are equal."""
    made = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    M, K = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    rows = made.choice([-1.5, -0.0, 0.0, 1e-300, 2.0], (M, K))
    weights = made.choice([0.5, 1.0], M) if draw(st.booleans()) else None
    return {"rows": rows, "counts": made.integers(1, 9, M), "weights": weights}


def pairs_of_outputs(found):
    """Σ_m n_m T_m T_mᵀ (K, K)."""
    return found.rows.T @ (found.group_counts[:, None] * found.rows)


def mean_row(found):
    """Σ_m π_m T_m (K,)."""
    return found.shares @ found.rows


# --- the class ---


def test_a_group_is_a_row_a_count_and_a_weight():
    found = Targets(SOFT, [3, 1], weights=[1.0, 2.0])
    assert (found.num_groups, found.num_outputs, found.num_samples) == (2, 3, 4)
    assert found.counts == (3, 1)
    assert_array_equal(found.group_counts, [3, 1])
    assert_array_equal(found.shares, [0.75, 0.25])
    assert_allclose(found.masses, 1.0, rtol=EXACT)
    assert_array_equal(found.weights, [1.0, 2.0])
    assert found.rows.dtype == found.weights.dtype == np.float64
    assert Targets([[1.0], [-2.0]], 5).num_outputs == 1


@pytest.mark.parametrize("counts", [2, 2.0, np.int32(2), np.array(2), [2, 2], (2.0, np.uint8(2)), np.full(2, 2.0)])
def test_counts_are_integers_of_any_library(counts):
    found = Targets(SOFT, counts).counts
    assert found == (2, 2)
    assert {*map(type, found)} == {int}


@pytest.mark.parametrize("rows", [SOFT.tolist(), SOFT.astype(np.float32), jnp.asarray(SOFT, jnp.float32)])
def test_rows_are_arrays_of_any_library(rows):
    found = Targets(rows, 1).rows
    assert type(found) is np.ndarray
    assert_allclose(found, SOFT, rtol=1e-7)


def test_what_becomes_of_the_callers_arrays_changes_nothing():
    rows, weights = SOFT.copy(), np.array([1.0, 2.0])
    found = Targets(rows, 1, weights=weights)
    rows[:], weights[:] = np.nan, np.nan
    assert_array_equal(found.rows, SOFT)
    assert_array_equal(found.weights, [1.0, 2.0])


def test_rows_and_weights_are_traced_and_counts_are_not():
    traces = []

    @jax.jit
    def risk_of_zero(found):
        traces.append(found.num_groups)
        assert (found.num_outputs, found.num_samples) == (3, 4)
        return jnp.sum(found.shares * found.weights * found.masses)

    for weights in (None, [1.0, 2.0], [3.0, 0.5]):
        given = Targets(SOFT, [3, 1], weights=weights)
        assert_allclose(risk_of_zero(given), given.shares @ given.weights, rtol=1e-6)
    assert traces == [2]
    slopes = jax.grad(risk_of_zero)(Targets(SOFT, [3, 1]))
    assert_allclose(slopes.weights, [0.75, 0.25], rtol=1e-6)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), Targets(SOFT, [3, 1]))
    assert_allclose(jax.vmap(risk_of_zero)(stacked), [1.0, 4.0], rtol=1e-6)


def test_what_needs_values_says_so_of_traced_targets():
    for method in (Targets.merged, Targets.is_one_hot_in_order):
        with pytest.raises(ValueError, match="targets are traced"):
            jax.jit(method)(Targets(SOFT, 1))


def test_another_number_of_groups_has_ones_for_weights_too():
    assert_array_equal(dataclasses.replace(Targets(SOFT, 1), rows=np.eye(3), counts=2).weights, np.ones(3))


@given(repeating())
def test_files_keep_all_of_it(tmp_path_factory, words):
    found = Targets(**words)
    path = tmp_path_factory.mktemp("targets") / "file"
    found.save(path)
    again = ufm.load(path)
    assert again.counts == found.counts
    assert_array_equal(again.rows, found.rows)
    assert_array_equal(again.weights, found.weights)
    assert again.weights.strides == found.weights.strides  # ones that nobody said stay unsaid
    assert again != found  # as everything that JAX maps over


def test_the_text_is_short_and_says_weights_where_there_are_any():
    assert repr(Targets(SOFT, [3, 1])) == "Targets(rows=float64[2,3], counts=(3, 1))"
    assert repr(Targets(SOFT, 1, weights=[1, 2])) == "Targets(rows=float64[2,3], counts=(1, 1), weights=[1.0, 2.0])"
    assert len(repr(targets.mixup(9, {0.3: 1}, 4))) < 100
    assert len(repr(jax.tree.map(jnp.asarray, Targets(SOFT, 1)))) < 100


# --- merging ---


@given(repeating())
def test_merged_groups_give_all_groups_back(words):
    found = Targets(**words)
    merged, index = found.merged()
    assert_array_equal(merged.rows[index], found.rows)
    assert_array_equal(merged.weights[index], found.weights)
    assert_array_equal(np.bincount(index, weights=found.group_counts), merged.group_counts)
    assert len({(*row, weight) for row, weight in zip(merged.rows, merged.weights, strict=True)}) == merged.num_groups
    # in the order in which they first appear
    assert_array_equal(np.unique(index, return_index=True)[1], np.sort(np.unique(index, return_index=True)[1]))
    assert_allclose(mean_row(merged), mean_row(found), atol=EXACT)
    again, same = merged.merged()
    assert again is merged
    assert_array_equal(same, np.arange(merged.num_groups))


def test_groups_of_unequal_weight_stay_apart():
    found = Targets(SOFT[[0, 0, 1, 0]], [1, 2, 3, 4], weights=[1, 2, 1, 1])
    merged, index = found.merged()
    assert merged.counts == (5, 2, 3)
    assert_array_equal(index, [0, 1, 2, 0])


def test_zeros_of_either_sign_are_one_target():
    assert Targets([[0.0], [-0.0]], 1).merged()[0].counts == (2,)


def test_many_groups_are_merged():
    random = np.random.default_rng(0)
    kinds = random.normal(size=(1000, 10))
    of = np.concatenate([np.arange(1000), random.integers(0, 1000, 99_000)])
    merged, index = Targets(kinds[of], 1).merged()
    assert_array_equal(merged.rows, kinds)
    assert_array_equal(index, of)


def mixed(bits):
    """The bijection by which rows are hashed (Steele, Lea & Flood 2014)."""
    for shift, odd in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = ((bits ^ (bits >> shift)) * odd) % 2**64
    return bits ^ (bits >> 31)


def test_different_rows_of_one_hash_stay_apart():
    bits = np.array([[1.0, 2.0], [1.5, 0.0]]).view(np.uint64)
    (a, b), (c, _) = bits.tolist()
    bits[1, 1] = mixed(a) ^ b ^ mixed(c)  # so that the second row's hash is the first's
    table = bits.view(np.float64)[[0, 1, 1, 0]]
    assert np.all(np.isfinite(table))
    first, index = distinct_rows(table)
    assert_array_equal(first, [0, 1])
    assert_array_equal(index, [0, 1, 1, 0])


# --- what is refused ---


def refused(match, rows, check=lambda found: None, **words):
    with pytest.raises(ValueError, match=match):
        check(Targets(rows, **{"counts": 1, **words}))


def test_wrong_fields_are_named_with_what_is_legal():
    refused(r"rows = .*NaN or an infinity in it: finite numbers of shape \(groups, outputs\)", [[np.nan, 1.0]])
    refused(r"rows = .*of shape \(2,\)", [1.0, 2.0])
    refused(r"rows = .*of shape \(0, 3\)", np.zeros((0, 3)))
    refused(r"rows = .*of shape \(3, 0\)", np.zeros((3, 0)))
    refused(r"counts = \[1\]: a positive integer, or 2 of them, is needed", SOFT, counts=[1])
    refused(r"counts = 0: an integer of at least 1", SOFT, counts=[1, 0])
    refused(r"counts = True", SOFT, counts=[1, True])
    refused(r"counts = 1.5", SOFT, counts=1.5)
    refused(r"counts = 9007199254740992: .*at most 4503599627370496", SOFT, counts=2**53)
    refused(r"weights = .*: 2 positive, finite numbers are needed", SOFT, weights=[1.0, 0.0])
    refused(r"weights = .*of shape \(3,\)", SOFT, weights=np.ones(3))


def test_rows_of_a_cross_entropy_are_multiples_of_probabilities():
    refused(r"targets.rows\[1, 2\] = -0.5: .*at least zero", [[1.0, 0.0, 0.0], [1.0, 0.0, -0.5]], check_probabilities)
    refused(r"targets.rows\[1\], whose sum is 0.0: .*positive, finite", [[1, 0, 0], [0, 0, 0]], check_probabilities)
    refused(r"targets.rows\[0\], whose sum is inf", [[1e308, 1e308, 0.0]], check_probabilities)
    refused("one output", [[1.0], [2.0]], check_probabilities)
    check_probabilities(targets.multilabel(4, {1: 3, 2: 2}))


def test_a_column_of_zeros_has_no_minimum_with_a_free_bias():
    refused(
        r"targets.rows\[:, 1\] is zero: .*no minimum is attained; .*bias=False",
        [[1, 0, 1], [1, 0, 0]],
        lambda targets: check_columns(targets, ufm.CrossEntropy()),
    )
    check_columns(Targets(SOFT, 1), ufm.CrossEntropy())


@pytest.mark.parametrize(
    ("named", "make"),
    [
        ("num_classes", lambda: targets.classes(10**7, 1)),
        ("per_class", lambda: targets.classes(3, [1, 2])),
        ("per_class", lambda: targets.noisy(3, 0.1, [1, 2])),
        ("confusion", lambda: targets.noisy(3, 1.1, 2)),
        ("confusion", lambda: targets.noisy(3, np.eye(2), 2)),
        ("confusion", lambda: targets.noisy(2, [[1.2, -0.2], [0.0, 1.0]], 2)),
        ("confusion", lambda: targets.noisy(2, [[0.5, 0.4], [0.0, 1.0]], 2)),
        ("samples", lambda: targets.multilabel(4, {5: 1})),
        ("samples", lambda: targets.multilabel(4, {0: 1})),
        ("samples", lambda: targets.multilabel(4, {1: 0})),
        ("samples", lambda: targets.multilabel(4, {(): 1})),
        ("samples", lambda: targets.multilabel(4, {(0, 4): 1})),
        ("samples", lambda: targets.multilabel(4, {(0, 0): 1})),
        ("samples", lambda: targets.multilabel(4, {"01": 1})),
        ("samples", lambda: targets.multilabel(4, {None: 1})),
        ("samples", lambda: targets.multilabel(4, {True: 1})),
        ("samples.*named twice", lambda: targets.multilabel(4, {(0, 1): 1, (1, 0): 2})),
        ("samples.*of size 2 too", lambda: targets.multilabel(4, {2: 1, frozenset({1, 0}): 2})),
        ("samples.*at most 1,000,000", lambda: targets.multilabel(10**5, {5 * 10**4: 1})),
        ("num_classes.*at most 1,000,000", lambda: targets.multilabel(10**30, {1: 1})),
        ("samples", lambda: targets.multilabel(4, {1: 2**52})),
        ("samples", lambda: targets.mixup(3, {1.5: 1}, 1)),
        ("samples", lambda: targets.mixup(3, {-0.1: 1}, 1)),
        ("samples", lambda: targets.mixup(3, {0.5: 0}, 1)),
        ("samples", lambda: targets.mixup(3, {0.5: 2**52}, 1)),
        ("per_class", lambda: targets.mixup(3, {0.5: 1}, 2**52)),
        ("a", lambda: targets.beta(0, 10)),
        ("points", lambda: targets.beta(1, 10, points=0)),
        ("counts", lambda: targets.next_token([[1, 2], [0, 0]])),
        ("counts", lambda: targets.next_token([[1, -1], [0, 3]])),
        ("counts", lambda: targets.next_token([[1, 0.5], [0, 3]])),
        ("counts", lambda: targets.next_token([[1e308, 1e308], [0, 3]])),
        ("counts", lambda: targets.next_token([[2**52, 2**52], [0, 3]])),
        ("Y", lambda: targets.of_samples([1.0, 2.0])),
    ],
)
def test_wrong_values_of_builders_are_named(named, make):
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        make()


# --- the builders ---


def test_classes_are_recognised():
    assert targets.classes(4, [1, 2, 3, 4]).is_one_hot_in_order()
    assert targets.noisy(4, 0.0, 1).is_one_hot_in_order()
    assert targets.multilabel(4, {1: 3}).is_one_hot_in_order()
    for rows in (np.eye(4)[::-1], 2 * np.eye(4), np.eye(4)[:3], np.eye(4) + 1e-300, np.eye(4)[[0, 1, 2, 3, 3]]):
        assert not Targets(rows, 1).is_one_hot_in_order()


@given(st.integers(2, 12), st.floats(0, 1))
def test_symmetric_noise_is_label_smoothing(K, wrong):
    alpha = wrong * K / (K - 1)
    found = targets.noisy(K, wrong, 3)
    assert_allclose(found.rows, (1 - alpha) * np.eye(K) + alpha / K, atol=EXACT)
    assert_allclose(found.masses, 1.0, rtol=EXACT)
    assert_array_equal(targets.noisy(K, found.rows, 3).rows, found.rows)


@given(st.integers(0, 2**32 - 1))
def test_the_mean_loss_of_noisy_labels_is_the_loss_to_their_probabilities(seed):
    random = np.random.default_rng(seed)
    confusion, logits = random.dirichlet(np.ones(4), 4), random.normal(size=4)
    rows = targets.noisy(4, confusion, [1, 2, 3, 4]).rows
    losses = ufm.CrossEntropy()(np.tile(logits, (4, 1)), np.arange(4))
    assert_allclose(confusion @ losses, np.log(np.sum(np.exp(logits))) - rows @ logits, rtol=1e-12)
    squares = ufm.SquaredError()(np.tile(logits, (4, 1)), np.arange(4))
    to_rows = 0.5 * np.sum((logits - rows) ** 2, axis=1)
    assert_allclose(confusion @ squares, to_rows + 0.5 * (1 - np.sum(rows**2, axis=1)), rtol=1e-12)


@given(st.integers(2, 8), st.data())
def test_all_sets_of_a_size_are_a_two_design(K, data):
    size = data.draw(st.integers(1, K))
    found = targets.multilabel(K, {size: 3})
    assert found.num_groups == math.comb(K, size)
    assert found.num_samples == 3 * math.comb(K, size)
    assert_array_equal(found.masses, size)
    assert_allclose(mean_row(found), size / K, rtol=EXACT)
    once, twice = math.comb(K - 1, size - 1), math.comb(K - 2, size - 2) if size > 1 else 0
    assert_array_equal(pairs_of_outputs(found), 3 * ((once - twice) * np.eye(K) + twice))
    assert once - twice == math.comb(K - 2, size - 1) or size == K  # o_m, which T's centred Gram is a multiple of
    assert_array_equal([np.flatnonzero(row) for row in found.rows], [*itertools.combinations(range(K), size)])


def test_sets_come_by_size_and_then_in_lexicographic_order():
    found = targets.multilabel(4, {2: 5, (3,): 1, frozenset({0}): 8, (1, 2, 0): 7, (3, 2, 0): 9})
    sets = [(0,), (3,), *itertools.combinations(range(4), 2), (0, 1, 2), (0, 2, 3)]
    assert [tuple(np.flatnonzero(row)) for row in found.rows] == sets
    assert found.counts == (8, 1, 5, 5, 5, 5, 5, 5, 7, 9)
    assert set(np.unique(found.rows)) == {0.0, 1.0}


@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_naming_every_set_is_naming_the_sizes(K, random):
    sets = [labels for size in range(1, K + 1) for labels in itertools.combinations(range(K), size)]
    random.shuffle(sets)
    every = targets.multilabel(K, {labels: 10 * len(labels) for labels in sets})
    sizes = targets.multilabel(K, {size: 10 * size for size in range(K, 0, -1)})
    assert_array_equal(every.rows, sizes.rows)
    assert every.counts == sizes.counts


def test_the_fano_plane_is_a_two_design():
    found = targets.multilabel(7, dict.fromkeys(FANO, 1))
    assert_array_equal(pairs_of_outputs(found), 2 * np.eye(7) + 1)  # r − λ = 2 on seven sets for all 35


def test_many_labels_are_few_sets():
    assert targets.multilabel(25, {6: 1}).num_groups == math.comb(25, 6)
    assert targets.multilabel(3000, {3000: 2, 2999: 1}).num_groups == 3001


@given(st.integers(2, 6), st.dictionaries(st.floats(0, 1), st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_mixup_is_the_same_for_every_permutation_of_classes(K, samples, data):
    found = targets.mixup(K, samples, 4)
    assert found.num_samples == 4 * K + sum(samples.values()) * K * (K - 1)
    assert_allclose(found.masses, 1.0, rtol=EXACT)
    assert_allclose(mean_row(found), 1 / K, rtol=1e-13)
    assert_array_equal(found.rows[:K], np.eye(K))
    assert found.merged()[0] is found  # equal rows are one group
    order = data.draw(st.permutations(range(K)))
    counts = {tuple(row): count for row, count in zip(found.rows.tolist(), found.counts, strict=True)}
    permuted = {tuple(row): count for row, count in zip(found.rows[:, order].tolist(), found.counts, strict=True)}
    assert permuted == counts


@given(st.integers(2, 5), st.dictionaries(st.floats(0, 1), st.integers(1, 5), min_size=1, max_size=4))
def test_mixup_has_the_moments_of_its_pairs(K, samples):
    found = targets.mixup(K, samples, 4)
    unit, expected = np.eye(K), 4.0 * np.eye(K)
    for lam, count in samples.items():
        for i, j in itertools.permutations(range(K), 2):
            row = lam * unit[i] + (1 - lam) * unit[j]
            expected += count * np.outer(row, row)
    assert_allclose(pairs_of_outputs(found), expected, rtol=1e-13, atol=1e-13)


def test_lambda_and_its_reflection_are_one_target_and_a_half_both_orders():
    assert targets.mixup(3, {0.1: 2, 0.9: 3}, 1).counts == targets.mixup(3, {0.9: 5}, 1).counts == (1,) * 3 + (5,) * 6
    assert targets.mixup(3, {0.5: 2}, [7, 8, 9]).counts == (7, 8, 9, 4, 4, 4)
    assert targets.mixup(3, {1.0: 2}, 1).is_one_hot_in_order()
    found = targets.mixup(3, {0.75: 1, 0.5: 1}, 1)
    assert_array_equal(found.rows[3:5], [[0.75, 0.25, 0.0], [0.75, 0.0, 0.25]])
    assert_array_equal(found.rows[9:], [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])


@given(st.sampled_from((1e-6, 0.01, 0.1, 0.4, 0.5, 1.0, 1.5, 7.0, 300.0, 1e6)), st.sampled_from((1, 2, 3, 8, 33, 200)))
def test_the_quadrature_has_the_moments_of_the_beta_distribution(a, points):
    grid = targets.beta(a, 2**53, points=points)
    lams, shares = np.array([*grid]), np.array([*grid.values()]) / 2**53
    assert sum(grid.values()) == 2**53
    assert np.all(np.diff(lams) > 0)
    assert np.all((lams >= 0.5) & (lams <= 1.0))
    moment = 1.0
    for k in range(1, min(2 * points, 40)):
        moment *= (a + (k - 1)) / (2 * a + (k - 1))  # of Beta(a, a)
        assert_allclose(0.5 * (shares @ (lams**k + (1 - lams) ** k)), moment, rtol=0, atol=1e-14)


def test_samples_of_the_quadrature_are_whole_and_add_up():
    for samples in (1, 2, 7, 100, 10**6):
        grid = targets.beta(0.3, samples, points=9)
        assert sum(grid.values()) == samples
        assert min(grid.values()) >= 1
    assert targets.beta(1.0, 5, points=1) == {0.5: 5}


def least_of_a_design(found, c_hat):
    """min over σ and z of Σ π w [lse − T·z + ‖z‖²/(2θ)] + ĉ(K−1)σ/2, θ = wσ/ĉ: the minimum of a symmetric design.

    At the best z of a row of mass 1, p = softmax z is ω(log θ + θT − L)/θ for Wright's ω and L = lse(z).
    """
    kinds, of = np.unique(np.sort(found.rows, axis=1), axis=0, return_inverse=True)
    shares, K = np.bincount(of, weights=found.shares), kinds.shape[1]

    def value(log_sigma):
        theta = np.exp(log_sigma) / c_hat
        low, high = np.zeros(len(kinds)), np.full(len(kinds), theta + np.log(K))
        for _ in range(80):
            L = 0.5 * (low + high)
            p = wrightomega(np.log(theta) + theta * kinds - L[:, None]) / theta
            low, high = np.where(p.sum(axis=1) > 1, L, low), np.where(p.sum(axis=1) > 1, high, L)
        z = theta * (kinds - p)
        loss = np.log(np.sum(np.exp(z), axis=1)) - np.sum(kinds * z, axis=1)
        return shares @ (loss + np.sum(z**2, axis=1) / (2 * theta)) + c_hat * (K - 1) * np.exp(log_sigma) / 2

    return minimize_scalar(value, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).fun


def test_reference_values_of_mixup():
    samples = {0.5: 1, 0.6: 2, 0.75: 2, 0.9: 2}
    for K, value in ((3, 0.561627810234), (4, 0.715887166219)):
        found = targets.mixup(K, samples, 4)
        assert_allclose(least_of_a_design(found, 0.004 * np.sqrt(found.num_samples)), value, rtol=1e-11)
    uniform = targets.mixup(10, targets.beta(1.0, 2**44, points=64), 2**44)
    assert_allclose(least_of_a_design(uniform, 0.01), 0.655640928806, rtol=1e-11)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))
def test_contexts_weigh_as_often_as_they_occur_however_they_decay(seed, M, V):
    random = np.random.default_rng(seed)
    table = random.poisson(2.0, (M, V)) * random.integers(0, 2, (M, V)) + np.eye(M, V, dtype=int)
    table[:, 0] += table.sum(axis=1) == 0
    by_occurrence, by_context = targets.next_token(table), targets.next_token(table, per_context=True)
    assert_array_equal(by_occurrence.group_counts, table.sum(axis=1))
    assert by_context.counts == (1,) * M
    assert_array_equal(by_occurrence.rows, by_context.rows)
    assert_allclose(by_occurrence.masses, 1.0, rtol=EXACT)
    for found in (by_occurrence, by_context):
        omega = found.shares * found.weights
        assert_allclose(omega, table.sum(axis=1) / table.sum(), rtol=EXACT)
        assert_allclose(omega @ found.rows, table.sum(axis=0) / table.sum(), rtol=1e-13, atol=0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 3))
def test_samples_are_their_distinct_rows(seed, N, K):
    random = np.random.default_rng(seed)
    Y = random.integers(-1, 2, (N, K)) * np.pi
    found = targets.of_samples(Y)
    assert found.num_samples == N
    assert_allclose(mean_row(found), Y.mean(axis=0), atol=1e-13)
    assert_allclose(pairs_of_outputs(found), Y.T @ Y, atol=1e-11)
    together = Targets(Y, 1).merged()[0]
    assert_array_equal(found.rows, together.rows)
    assert found.counts == together.counts

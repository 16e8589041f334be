import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ufm import geometry

EXACT = 1e-14


@given(st.integers(2, 40), st.integers(0, 5), st.sampled_from((None, 0, 1)))
def test_simplex_etf_has_unit_rows_and_cosines_minus_one_over_K_minus_one(K, extra, seed):
    M = geometry.simplex_etf(K, K - 1 + extra, seed=seed)
    # MMᵀ = K/(K−1) (I − J/K): the diagonal is 1 and the rest −1/(K−1)
    assert_allclose(M @ M.T, K / (K - 1) * (np.eye(K) - 1 / K), atol=EXACT)
    assert M.shape == (K, K - 1 + extra)
    assert M.dtype == np.float64


@given(st.integers(2, 40), st.integers(0, 5), st.booleans())
def test_orthogonal_frame_has_orthonormal_rows_and_centred_is_its_projection(K, extra, centred):
    F = geometry.orthogonal_frame(K, K + extra, seed=3, centred=centred)
    assert_allclose(F @ F.T, np.eye(K) - (1 / K if centred else 0.0), atol=EXACT)
    # P I P = P: subtracting the mean row turns one into the other
    whole = geometry.orthogonal_frame(K, K + extra, seed=3)
    assert geometry.gram_distance(whole - whole.mean(axis=0), geometry.simplex_etf(K, K)) < EXACT * K


def test_general_orthogonal_frame_keeps_norms_and_lets_classes_die():
    norms = np.array([3.0, 0.0, 1.0, 2.0])
    F = geometry.general_orthogonal_frame(norms, 3)
    assert_allclose(F @ F.T, np.diag(norms**2), atol=EXACT * 10)


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda d: geometry.simplex_etf(4, d), 3),
        (lambda d: geometry.orthogonal_frame(4, d), 4),
        (lambda d: geometry.orthogonal_frame(4, d, centred=True), 3),
        (lambda d: geometry.general_orthogonal_frame([1.0, 2.0, 0.0], d), 2),
        (lambda d: geometry.orthoplex(5, d), 3),
        (lambda d: geometry.polygon(5, d), 2),
    ],
)
def test_too_small_a_dimension_says_why(make, least):
    make(least)
    with pytest.raises(ValueError, match=f"dim ≥ {least} is needed"):
        make(least - 1)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="num_classes = 1"):
        geometry.simplex_etf(1, 3)
    with pytest.raises(ValueError, match="norms"):
        geometry.general_orthogonal_frame([1.0, -1.0], 2)
    with pytest.raises(ValueError, match="equally many rows"):
        geometry.gram_distance(np.eye(3), np.eye(4))


@given(st.integers(2, 8), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_gram_distance_is_blind_to_rotation_scale_and_dimension(K, scale, seed):
    X = np.random.default_rng(seed).normal(size=(K, 6))
    Q = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(8, 6)))[0]
    assert geometry.gram_distance(X, scale * X @ Q.T) < 1e-14
    # ‖I/√K − P/√(K−1)‖² = 2 − 2√((K−1)/K), since ⟨I, P⟩ = K − 1
    expected = np.sqrt(2 - 2 * np.sqrt((K - 1) / K))
    found = geometry.gram_distance(geometry.orthogonal_frame(K, K), geometry.simplex_etf(K, K))
    assert_allclose(found, expected, rtol=1e-12)


def test_gram_distance_of_zero_counts_as_a_zero_gram():
    assert geometry.gram_distance(np.zeros((3, 2)), np.eye(3)) == pytest.approx(1.0, abs=EXACT)


def twenty_four_cell():
    """Rows (±1, ±1, 0, 0)/√2 and permutations: the vertices of the regular 24-cell, ±60° and ±90° apart."""
    signs = itertools.product((1.0, -1.0), repeat=2)
    rows = [np.eye(4)[[i, j]].T @ s for s in signs for i, j in itertools.combinations(range(4), 2)]
    return np.array(rows) / np.sqrt(2)


def distance_by_faces(W):
    """One-vs-rest distance by trying every set of at most d + 1 others (Carathéodory).

    The nearest point of a hull is the nearest point of the affine hull of some of its vertices, with weights that
    are not negative: stationarity of ½‖pᵀQ‖² under 1ᵀp = 1 is Q Qᵀ p + μ 1 = 0.
    """
    distances = []
    for k in range(len(W)):
        others = np.delete(W, k, axis=0) - W[k]
        for size in range(1, min(W.shape[1] + 1, len(others)) + 1):
            for chosen in itertools.combinations(others, size):
                Q, ones = np.array(chosen), np.ones((size, 1))
                system = np.block([[Q @ Q.T, ones], [ones.T, np.zeros((1, 1))]])
                p = np.linalg.lstsq(system, np.eye(size + 1)[-1], rcond=None)[0][:-1]
                if abs(p.sum() - 1) < 1e-9 and np.all(p >= -1e-12):
                    distances.append(np.linalg.norm(p @ Q))
    return min(distances)


@given(st.integers(2, 16), st.integers(0, 3), st.sampled_from((None, 0, 1)))
def test_orthoplex_has_orthogonal_axes_and_antipodal_pairs(K, extra, seed):
    W = geometry.orthoplex(K, -(-K // 2) + extra, seed=seed)
    # rows 2i and 2i + 1 are antipodal, all others orthogonal
    expected = np.eye(K)
    pairs = np.arange(K // 2)
    expected[2 * pairs, 2 * pairs + 1] = expected[2 * pairs + 1, 2 * pairs] = -1.0
    assert_allclose(W @ W.T, expected, atol=EXACT)
    assert W.shape == (K, -(-K // 2) + extra)


@given(st.integers(2, 40), st.integers(2, 5), st.sampled_from((None, 0, 1)))
def test_polygon_has_the_cosines_of_equal_angles(K, dim, seed):
    W = geometry.polygon(K, dim, seed=seed)
    k = np.arange(K)
    assert_allclose(W @ W.T, np.cos(2 * np.pi * (k[:, None] - k[None]) / K), atol=EXACT)
    assert W.shape == (K, dim)


@pytest.mark.parametrize(
    ("W", "distance", "angle"),
    [
        # w_k and the others' centroid −w_k/(K−1) are K/(K−1) apart
        *((geometry.simplex_etf(K, K + 1), K / (K - 1), np.arccos(-1 / (K - 1))) for K in (2, 3, 7, 20)),
        # two antipodal pairs put the origin into every rest's hull, which has nothing on its row's side of it
        *((geometry.orthoplex(K, d), 1.0, np.pi / 2) for K, d in ((4, 2), (5, 3), (6, 3), (10, 8), (16, 8))),
        # the chord between both neighbours passes at cos(2π/K)
        *((geometry.polygon(K, 3, seed=1), 1 - np.cos(2 * np.pi / K), 2 * np.pi / K) for K in (3, 5, 8, 31)),
        # eight neighbours at 60°, in the hyperplane at height ½
        (twenty_four_cell(), 0.5, np.pi / 3),
        # orthonormal rows: the others' centroid has norm 1/√(K−1) and is orthogonal
        (geometry.orthogonal_frame(5, 6), np.sqrt(1 + 1 / 4), np.pi / 2),
    ],
)
def test_distance_and_angle_of_known_codes(W, distance, angle):
    assert_allclose(geometry.one_vs_rest_distance(W), distance, rtol=1e-13)
    assert_allclose(geometry.minimal_angle(W), angle, rtol=1e-13)


@given(st.integers(2, 7), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_one_vs_rest_distance_is_that_of_the_nearest_face(K, d, degenerate, seed):
    draw = np.random.default_rng(seed)
    W = draw.integers(-2, 3, size=(K, d)).astype(float) if degenerate else draw.normal(size=(K, d))
    assert_allclose(geometry.one_vs_rest_distance(W), distance_by_faces(W), atol=1e-12)


@given(st.integers(2, 12), st.integers(1, 6), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_distance_moves_with_scale_only_and_angle_with_nothing(K, d, scale, seed):
    draw = np.random.default_rng(seed)
    W, shift = draw.normal(size=(K, d)), draw.normal(size=d + 2)
    Q = np.linalg.qr(draw.normal(size=(d + 2, d)))[0]
    distance, angle = geometry.one_vs_rest_distance(W), geometry.minimal_angle(W)
    moved = scale * (W @ Q.T + shift[None])[draw.permutation(K)]
    assert_allclose(geometry.one_vs_rest_distance(moved), scale * distance, rtol=1e-9, atol=1e-13 * scale)
    assert_allclose(geometry.minimal_angle(scale * W @ Q.T), angle, atol=1e-13)


@given(st.integers(3, 12), st.integers(2, 6), st.integers(0, 99))
def test_one_vs_rest_distance_of_unit_rows_is_between_its_bounds(K, d, seed):
    W = np.random.default_rng(seed).normal(size=(K, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    distance, angle = geometry.one_vs_rest_distance(W), geometry.minimal_angle(W)
    # ⟨w_k, w_k − x⟩ ≥ 1 − cos θ for x in the hull of rows at least θ away; a hull is no farther than its points
    assert 1 - np.cos(angle) - 1e-14 <= distance <= 2 * np.sin(angle / 2) + 1e-14
    # the mean of ‖w_k − mean of the others‖² is (K/(K−1))² (1 − ‖mean‖²); beyond d + 1 rows not even 1 is exceeded
    assert distance <= (K / (K - 1) if d + 1 >= K else 1.0) + 1e-14


def test_angles_at_both_ends_keep_their_digits():
    # a cosine within 1e-16 of ±1 knows its angle to 1e-8 only
    for angle in (1e-9, np.pi - 1e-9):
        assert_allclose(geometry.minimal_angle([[1.0, 0.0], [np.cos(angle), np.sin(angle)]]), angle, rtol=1e-14)


def test_rows_that_coincide_or_vanish():
    assert geometry.one_vs_rest_distance(np.ones((3, 2))) == 0
    assert geometry.minimal_angle(np.ones((3, 2))) == 0
    with pytest.raises(ValueError, match="zero row, 1"):
        geometry.minimal_angle([[1.0, 0.0], [0.0, 0.0]])
    for wrong in (np.ones((1, 2)), np.ones(3), [[1.0], [np.nan]]):
        with pytest.raises(ValueError, match="at least two rows"):
            geometry.one_vs_rest_distance(wrong)
        with pytest.raises(ValueError, match="at least two rows"):
            geometry.minimal_angle(wrong)

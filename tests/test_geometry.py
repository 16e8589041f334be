import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from ufm import geometry

EXACT = 1e-14


@given(st.integers(2, 40), st.integers(0, 5), st.sampled_from((None, 0, 1)))
def test_simplex_etf_has_unit_rows_and_cosines_minus_one_over_K_minus_one(K, extra, seed):
    M = geometry.simplex_etf(K, K - 1 + extra, seed)
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

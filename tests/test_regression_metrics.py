"""NRC1–NRC3 of anybody's features, targets and last layer."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import ufm
from ufm import measure_regression

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, N=12, d=5, K=2):
    """Features, targets and a last layer."""
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(N, d)),
        random.normal(size=(N, K)) @ random.normal(size=(K, K)),
        random.normal(size=(K, d)),
    )


def left_by(rows, H):
    """Mean over samples of what the span of `rows` leaves of h/‖h‖, by its pseudo-inverse."""
    units = H / np.linalg.norm(H, axis=1, keepdims=True)
    return np.mean(np.sum((units - units @ np.linalg.pinv(rows) @ rows) ** 2, axis=1))


@given(SEEDS)
def test_metrics_are_those_of_the_definitions(seed):
    H, Y, A = drawn(seed)
    covariance = np.cov(Y.T, bias=True)
    gamma = 0.7 * np.linalg.eigvalsh(covariance)[0]
    found = measure_regression(H, Y, A, gamma=gamma)
    components = np.linalg.eigh(H.T @ H)[1][:, -2:].T
    eigenvalues, V = np.linalg.eigh(covariance)
    lowered = (V * np.sqrt(eigenvalues)) @ V.T - np.sqrt(gamma) * np.eye(2)
    distance = A @ A.T / np.linalg.norm(A @ A.T) - lowered / np.linalg.norm(lowered)
    assert_allclose(found[:2], [left_by(components, H), left_by(A, H)], rtol=1e-10, atol=1e-14)
    assert_allclose(found.nrc3, np.sum(distance**2), rtol=1e-8, atol=1e-14)
    assert found.gamma == gamma


@given(SEEDS)
def test_the_best_gamma_is_below_the_least_eigenvalue_and_none_there_is_better(seed):
    H, Y, A = drawn(seed, K=3)
    best, least = measure_regression(H, Y, A), np.linalg.eigvalsh(np.cov(Y.T, bias=True))[0]
    assert 0 <= best.gamma <= least * (1 + 1e-12)
    grid = least * np.linspace(0, 1, 41) ** 2
    assert best.nrc3 <= min(measure_regression(H, Y, A, gamma=gamma).nrc3 for gamma in grid) + 1e-12


@given(SEEDS)
def test_what_changes_no_geometry_changes_no_metric(seed):
    H, Y, A = drawn(seed)
    random = np.random.default_rng(seed)
    found, order = measure_regression(H, Y, A), random.permutation(len(H))
    turn, of_outputs = (np.linalg.qr(random.normal(size=(n, n)))[0] for n in (5, 2))
    same = [
        (H[order], Y[order], A),
        (np.repeat(H, 2, axis=0), np.repeat(Y, 2, axis=0), A),
        (1e-200 * H, Y, 1e200 * A),
        (H @ turn, Y, A @ turn),
        (H, Y @ of_outputs, of_outputs.T @ A),
        (H, Y + random.normal(size=2), A),
    ]
    for each in same:
        assert_allclose(measure_regression(*each), found, rtol=1e-6, atol=1e-9)  # where γ is best is known to √eps
    for size in (1e-3, 1e60):
        assert_allclose(measure_regression(H, size * Y, A), [*found[:3], size**2 * found.gamma], rtol=1e-6, atol=1e-9)


def test_one_output_may_be_a_list_and_has_no_third_measure():
    H, Y, A = drawn(0, K=1)
    found = measure_regression(H, Y[:, 0].tolist(), A)
    assert found == measure_regression(H, Y, A)
    assert (found.nrc3, found.gamma) == (0.0, 0.0)
    assert repr(found).startswith("RegressionMetrics(nrc1=0.")


def test_what_is_zero_normalises_to_zero():
    H, Y, A = drawn(0)
    assert measure_regression(0 * H, Y, A)[:2] == (0.0, 0.0)
    assert measure_regression(H, Y, 0 * A).nrc2 == 1.0
    assert_allclose(measure_regression(H, Y, 0 * A).nrc3, 1.0, rtol=1e-12)
    assert measure_regression(H, np.ones_like(Y), A).nrc3 == 1.0
    assert measure_regression(H, 1e200 * Y, A).nrc3 <= 2.0


def test_what_cannot_be_measured_is_named():
    H, Y, A = drawn(0)
    for match, words in {
        r"Y of shape \(11, 2\): a row for each of the 12 rows of H": {"Y": Y[1:]},
        r"A of shape \(2, 4\): \(2, 5\), outputs and features, is needed": {"A": A[:, 1:]},
        r"H of shape \(5,\): a matrix": {"H": H[0]},
        "Y: a NaN or an infinity": {"Y": np.where(Y > 0, np.inf, Y)},
        "gamma = -1.0": {"gamma": -1.0},
    }.items():
        with pytest.raises(ValueError, match=match):
            measure_regression(**{"H": H, "Y": Y, "A": A, **words})
    with pytest.raises(ValueError, match="traced"):
        jax.jit(measure_regression)(H, Y, A)


def test_it_is_zero_at_the_minimum_with_gamma_from_the_decays():
    targets = ufm.targets.of_samples(drawn(0)[1])
    problem = ufm.Problem(targets=targets, dim=4, loss=ufm.SquaredError(), lambda_A=1e-2, lambda_H=1e-3)
    best = ufm.minimize(problem)
    found = measure_regression(best.params.H, targets.rows[problem.labels], best.params.A)
    assert_allclose(found[:3], 0.0, atol=1e-12)
    assert_allclose(found.gamma, problem.num_samples * 1e-2 * 1e-3, rtol=1e-6)

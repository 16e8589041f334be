import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import problem

import ufm
from ufm._core.precision import float64

UNEVEN = problem(num_classes=4, dim=3, per_class=[7, 3, 2, 1], lambda_A=0.0, lambda_H=0.0, bias=False)
EVEN = problem(num_classes=4, dim=6, lambda_A=0.0, lambda_H=0.0, bias=False)


@pytest.fixture(scope="module")
def flows(study):
    return study("flows")


def simplices(p, margin):
    """H and A of the flow from simplices: A = √n h U and H = h U_y, UUᵀ = I − J/K, √n h² = margin."""
    K, n = p.num_classes, int(p.class_counts[0])
    U = np.sqrt((K - 1) / K) * ufm.geometry.simplex_etf(K, p.dim)
    h = np.sqrt(margin / np.sqrt(n))
    return ufm.Params(h * U[p.labels], np.sqrt(n) * h * U, np.zeros(K)), U


def test_velocity_is_minus_the_gradient_of_the_objective(flows):
    start = UNEVEN.init(1)
    with float64():
        gradient = jax.jit(jax.grad(UNEVEN.objective))(jax.tree.map(jnp.asarray, start))
    H, A = flows.velocity(UNEVEN, start.H, start.A)
    np.testing.assert_allclose(H, -np.asarray(gradient.H), atol=1e-15)
    np.testing.assert_allclose(A, -np.asarray(gradient.A), atol=1e-15)


@pytest.mark.parametrize("margin", [1.0, 30.0, 300.0])
def test_velocity_keeps_its_digits(flows, margin):
    """Each wrong probability is q = 1/(e^s + K − 1), so that −∂f/∂Z = (qK/N)(e_y − 1/K): h_i moves along U_y A."""
    start, _ = simplices(EVEN, margin)
    H, _ = flows.velocity(EVEN, start.H, start.A)
    K, N = EVEN.num_classes, EVEN.num_samples
    q = np.exp(-margin) / (1 + (K - 1) * np.exp(-margin))
    np.testing.assert_allclose(H, q * K / N * (np.eye(K) - 1 / K)[EVEN.labels] @ start.A, rtol=1e-12, atol=1e-16 * q)


def test_what_a_flow_conserves(flows):
    """d(AᵀA)/dt = AᵀUᵀH + HᵀUA = d(HᵀH)/dt, U = −∂f/∂Z; and 1ᵀUᵀH = 0, since rows of U sum to zero."""
    start = UNEVEN.init(1)
    H, A = flows.flow(UNEVEN, start, np.array([2.0, 20.0, 60.0]))
    for h, a in zip(H, A, strict=True):
        np.testing.assert_allclose(a.T @ a - h.T @ h, start.A.T @ start.A - start.H.T @ start.H, atol=1e-8)
        np.testing.assert_allclose(a.sum(axis=0), start.A.sum(axis=0), atol=1e-11)


def test_the_flow_of_simplices_follows_its_equation(flows):
    log_times = np.array([0.5, 3.0, 10.0, 60.0])
    start, _ = simplices(EVEN, 0.5)
    H, A = flows.flow(EVEN, start, log_times)
    found = np.array([flows.margins(EVEN.labels, h, a) for h, a in zip(H, A, strict=True)])
    wrong = np.isfinite(found[0])
    expected = flows.simplex_margin(4, 5, 0.5, log_times)
    np.testing.assert_allclose(found[:, wrong], np.repeat(expected[:, None], wrong.sum(), axis=1), rtol=1e-8)


def test_simplex_margin_solves_its_equation(flows):
    """t = (√n/2) ∫ (e^s + K − 1)/s ds from the first margin to the last."""
    log_times = np.array([1.0, 6.0])
    ends = flows.simplex_margin(4, 5, 0.5, log_times)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    for log_time, end in zip(log_times, ends, strict=True):
        s = 0.5 + (end - 0.5) * (nodes + 1) / 2
        t = np.sqrt(5) / 2 * np.sum(weights * (np.exp(s) + 3) / s) * (end - 0.5) / 2
        np.testing.assert_allclose(t, np.expm1(log_time), rtol=1e-9)


@pytest.mark.parametrize("kind", ["off the span", "across", "along"])
def test_deviations_within_classes_fall_as_theory_says(flows, kind):
    """Linearised, dδ/dt = −Aᵀ(diag p − ppᵀ)Aδ/N, A = √(√n s)·U, where p is q but for p_y, and ds/dt = 2sq/√n.

    Off the span of A it is zero. Across, where Uδ is orthogonal to e_y and 1, (diag p − ppᵀ)Uδ = qUδ, so that
    dδ/ds = −δ/2K. Along U_y it is p_y(e_y − p) = Kp_y q(e_y − 1/K), so that dδ/ds = −p_y δ/2, p_y = e^s/(e^s + K − 1).
    """
    start, U = simplices(EVEN, 0.5)
    K, first = EVEN.num_classes, 0.5
    off = np.linalg.svd(U)[2][-1]
    direction = {"off the span": off, "across": U[2] - U[1], "along": U[0]}[kind]
    H = start.H.copy()
    H[:2] += 1e-6 * np.outer([1, -1], direction)
    log_times = np.array([2.0, 10.0, 20.0])
    H, _ = flows.flow(EVEN, start._replace(H=H), log_times)
    found = (H[:, 0] - H[:, 1]) @ direction / (2e-6 * direction @ direction)
    s = flows.simplex_margin(K, 5, first, log_times)
    laws = {
        "off the span": np.ones(3),
        "across": np.exp((first - s) / (2 * K)),
        "along": np.sqrt((np.exp(first) + K - 1) / (np.exp(s) + K - 1)),
    }
    np.testing.assert_allclose(found, laws[kind], rtol=1e-5, atol=1e-6)  # of the second order, and of steps


def test_the_smoothed_margin_never_falls_once_all_samples_are_right(flows):
    """Lyu & Li (2020), for many classes: γ = −log(e^F − 1)/½‖θ‖² of the summed loss F rises from where F < log 2.

    With q_i = −log Σ_j e^{−s_ij}, F = Σ log(1 + e^{−q_i}). Margins are homogeneous of degree two and q_i is at most
    their mean under the weights ∝ e^{−s_ij}, so ⟨θ, ∇q_i⟩ ≥ 2q_i, hence ⟨θ, −∇F⟩ ≥ 2F·x(F) with the x that one sample
    of that loss would have; the rest is Cauchy and Schwarz's inequality. As F is at least each sample's loss, γ is at
    most the normalised margin, which is at most 1/value.
    """
    H, A = flows.flow(UNEVEN, UNEVEN.init(1), np.linspace(1.0, 60.0, 200))
    leads = np.array([flows.margins(UNEVEN.labels, h, a) for h, a in zip(H, A, strict=True)])
    total = np.log1p(np.exp(-leads).sum(axis=2)).sum(axis=1)
    half = (np.sum(H**2, axis=(1, 2)) + np.sum(A**2, axis=(1, 2))) / 2
    smooth, least = -np.log(np.expm1(total)) / half, leads.min(axis=(1, 2)) / half
    right = total < np.log(2)
    assert 100 < right.sum() < 200
    assert (np.diff(smooth[right]) > -1e-12).all()
    assert (smooth <= least).all()
    value = ufm.max_margin(UNEVEN).value
    assert (least <= 1 / value).all()
    assert least[-1] > 0.9 / value


def test_machines_of_two_kinds_agree(study):
    """Scikit-learn's dual descent and SciPy's quadratic programme, of means that are no limit."""
    module = study("max_margin")
    means = np.eye(4, 5) + 0.3 * np.random.default_rng(0).normal(size=(4, 5))
    start = np.linalg.lstsq(means, np.eye(4) - 0.25)[0].T
    found = module.solved(means, start)
    np.testing.assert_allclose(module.machine(means), found, atol=1e-6 * np.abs(found).max())
    leads = means @ found.T
    leads = np.diag(leads)[:, None] - leads
    assert np.min(leads[~np.eye(4, dtype=bool)]) == pytest.approx(1.0, abs=1e-9)

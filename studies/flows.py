"""Gradient flow of cross-entropy without weight decay or bias, over as many decades of time as one likes.

The flow is dθ/dt = −∇f with f = (1/N) Σ_i cross-entropy(A h_i, y_i). Its loss falls like V/(2 t log t), where V is the
value of `ufm.max_margin`: with a normalised margin near 1/V the margin s is ½‖θ‖²/V, ‖∇f‖ is ⟨θ, −∇f⟩/‖θ‖ = 2sf/‖θ‖, so
that d(1/f)/dt = 2s/V, and s is about log t.
"""

import numpy as np
from scipy.integrate import solve_ivp

import ufm


def margins(labels: np.ndarray, H: np.ndarray, A: np.ndarray) -> np.ndarray:
    """(N, K) by how much the right logit leads each; infinity for the right one itself."""
    Z = H @ A.T
    own = labels[:, None] == np.arange(len(A))
    return np.where(own, np.inf, Z[own][:, None] - Z)


def velocity(problem: ufm.Problem, H: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minus the gradient of the objective by H and A, whose digits are kept however small it is."""
    odds = np.exp(-margins(problem.labels, H, A))
    wrong = odds / (1.0 + odds.sum(axis=1, keepdims=True))
    own = problem.labels[:, None] == np.arange(len(A))
    U = np.where(own, wrong.sum(axis=1, keepdims=True), -wrong) / problem.num_samples
    return U @ A, U.T @ H


def flow(problem: ufm.Problem, start: ufm.Params, log_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H (times, N, d) and A (times, K, d) of the gradient flow, from `start` at t = 0.

    It is solved over σ = log(1 + t), dθ/dσ = −e^σ ∇f: since the loss falls like 1/(t log t) it moves evenly in σ, and
    steps in t are the longer, the smaller the loss is. Without a bias; errors of a step are 1e-10 of the parameters.

    Args:
        problem: cross-entropy without decay.
        start: where from.
        log_times: increasing values of log(1 + t), in nats, at most 700.

    Raises:
        SystemExit: where the solver gives up.
    """
    cut = start.H.size

    def unpack(theta):
        return theta[:cut].reshape(start.H.shape), theta[cut:].reshape(start.A.shape)

    def slope(sigma, theta):
        return np.exp(sigma) * np.concatenate([part.ravel() for part in velocity(problem, *unpack(theta))])

    theta = np.concatenate([start.H.ravel(), start.A.ravel()])
    spans = {"t_span": (0.0, log_times[-1]), "t_eval": log_times}
    found = solve_ivp(slope, y0=theta, method="DOP853", rtol=1e-10, atol=1e-12, **spans)
    if not found.success:
        raise SystemExit(f"the flow stopped before its end: {found.message}")
    H, A = zip(*(unpack(theta) for theta in found.y.T), strict=True)
    return np.array(H), np.array(A)


def simplex_margin(num_classes: int, per_class: int, start: float, log_times: np.ndarray) -> np.ndarray:
    """The margin s over log(1 + t) of the flow from balanced simplices: ds/dt = 2s/(√n(e^s + K − 1)).

    With A = √n h U and H = h U_y, UUᵀ = I − J/K, all margins are s = √n h², and the flow stays of that form.
    """
    root, wrong = np.sqrt(per_class), num_classes - 1

    def slope(sigma, s):
        return 2.0 * s * np.exp(sigma - s) / (root * (1.0 + wrong * np.exp(-s)))

    spans = {"t_span": (0.0, log_times[-1]), "t_eval": log_times}
    return solve_ivp(slope, y0=[start], method="DOP853", rtol=1e-12, atol=1e-12, **spans).y[0]


def means_of(counts: np.ndarray, H: np.ndarray) -> np.ndarray:
    """(K, d) class means of features (N, d), one class after the other."""
    starts = np.cumsum(counts) - counts
    return np.add.reduceat(H, starts, axis=0) / counts[:, None]


def left_in_place(problem: ufm.Problem, start: ufm.Params, A: np.ndarray) -> tuple[float, float]:
    """The square of what the flow never moves of `start` and its limit lacks; and what of it is within classes, over N.

    Gradients of A sum to zero over classes, so its mean row stays. Gradients of H lie in the span of A's rows less
    their mean, so what is off the span that these end with, stays: V of the class means, and deviations from them. The
    limit (A*, H*) has neither a mean row nor deviations, and of V all but one direction is a turn of the span: H*Ω, to
    which A adds A*Ω. Since Σ_k h*_k = 0, what is left of V in the norm of samples is ‖Σ_k v_k‖²/Σ_k(1/n_k).

    Args:
        problem: of the flow.
        start: where it begins.
        A: (K, d) classifier that it comes to.
    """
    counts, K = problem.class_counts, len(A)
    _, _, Vt = np.linalg.svd(A - A.mean(axis=0))
    off = start.H @ Vt[K - 1 :].T
    means = means_of(counts, off)
    within = float(np.sum((off - means[problem.labels]) ** 2))
    between = float(np.sum(means.sum(axis=0) ** 2) / np.sum(1.0 / counts))
    return K * float(np.sum(start.A.mean(axis=0) ** 2)) + within + between, within / problem.num_samples

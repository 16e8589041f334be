"""SciPy and NumPy as peers: L-BFGS-B with analytic gradients, and NC1 as it is defined."""

import functools as ft
from collections.abc import Callable

import numpy as np

import ufm

THREADS = (1, 2)  # of BLAS
SIZES = np.geomspace(1e-3, 10.0, 30)  # of a simplex to start from


def pseudoinverse_nc1(H: np.ndarray, labels: np.ndarray) -> float:
    """NC1 as it is defined: (1/K) Tr(Cov_W Cov_B†), both covariances formed."""
    K = labels.max() + 1
    means = np.stack([H[labels == k].mean(axis=0) for k in range(K)])
    deviations = H - means[labels]
    centred = means - means.mean(axis=0)
    within, between = deviations.T @ deviations / len(H), centred.T @ centred / K
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-5)) / K)


def thresholded(Y: np.ndarray, problem: ufm.Problem) -> tuple[float, np.ndarray, np.ndarray]:
    """The minimum of a regression, features (N, K) and classifier (K, K), from an eigendecomposition of cov Y.

    With eigenvalues s² and ĉ = √(N λ_A λ_H) it is Σ ĉ s − ĉ²/2 over s > ĉ, and Σ s²/2 over the others.
    """
    squares, V = np.linalg.eigh(np.cov(Y.T, bias=True))
    s, decay_H = np.sqrt(squares), len(Y) * problem.lambda_H
    price = np.sqrt(problem.lambda_A * decay_H)
    left, ratio = np.maximum(s - price, 0.0), np.sqrt(decay_H / problem.lambda_A)
    H = (Y - Y.mean(axis=0)) @ (V * (np.sqrt(left / ratio) / s))
    return float(np.sum(np.where(s > price, price * s - price**2 / 2, squares / 2))), H, V * np.sqrt(left * ratio)


def objective_of(problem: ufm.Problem, whole: bool) -> tuple[Callable, np.ndarray, Callable]:
    """Value and gradient in NumPy, a start and a reader of its vectors: all samples, or class means with weights.

    The start is random, or of class means in as many dimensions the simplex of the best size.
    """
    K, counts = problem.num_classes, problem.class_counts
    labels = problem.labels if whole else np.arange(K)
    weights = np.full(len(labels), 1 / problem.num_samples) if whole else counts / problem.num_samples
    decay_H = problem.lambda_H * (np.ones(len(labels)) if whole else counts)[:, None]
    d = problem.dim if whole else min(problem.dim, K)
    shapes = ((len(labels), d), (K, d), (K,))
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    targets = np.eye(K)[labels]

    def split(x):
        return [part.reshape(shape) for part, shape in zip(np.split(x, cuts), shapes, strict=True)]

    def value_and_gradient(x):
        H, A, b = split(x)
        Z = H @ A.T + b
        Z -= Z.max(axis=1, keepdims=True)
        E = np.exp(Z)
        total = E.sum(axis=1, keepdims=True)
        U = weights[:, None] * (E / total - targets)
        value = weights @ (np.log(total[:, 0]) - np.sum(Z * targets, axis=1))
        value += 0.5 * (np.sum(decay_H * H**2) + problem.lambda_A * np.sum(A**2))
        return value, np.concatenate(
            [(U @ A + decay_H * H).ravel(), (U.T @ H + problem.lambda_A * A).ravel(), U.sum(0)]
        )

    def params(x):
        H, A, b = split(x)
        pad = ((0, 0), (0, problem.dim - d))
        return ufm.Params(np.pad(H if whole else np.repeat(H, counts, axis=0), pad), np.pad(A, pad), b)

    if whole or d < K:
        start = np.random.default_rng(0).normal(size=cuts[1]) / np.sqrt(d)
        return value_and_gradient, np.concatenate([start, np.zeros(K)]), params
    simplex = np.eye(K) - 1 / K  # of the best size, its factors equally priced
    ratio = np.sqrt(problem.lambda_A / decay_H)
    starts = [
        np.concatenate([(size * ratio * simplex).ravel(), (size * simplex).ravel(), np.zeros(K)]) for size in SIZES
    ]
    return value_and_gradient, min(starts, key=lambda x: value_and_gradient(x)[0]), params


def lbfgs(problems: list[ufm.Problem], whole: bool) -> dict[str, Callable[[], list[ufm.Params]]]:
    """SciPy's L-BFGS-B with analytic gradients to a gradient of 1e-9, with one thread of BLAS and with two."""
    import scipy.optimize
    from threadpoolctl import threadpool_limits

    options = {"gtol": 1e-9, "ftol": 0.0, "maxiter": 100_000, "maxfun": 200_000, "maxcor": 20}

    def run(threads):
        found = []
        with threadpool_limits(threads):
            for problem in problems:
                fun, start, params = objective_of(problem, whole)
                result = scipy.optimize.minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
                found.append(params(result.x))
        return found

    return {f"L-BFGS-B, {threads} thread{'s' * (threads > 1)}": ft.partial(run, threads) for threads in THREADS}

import numpy as np
import pytest

import ufm

K, N, D = 4, 12, 5


@pytest.fixture
def module(study):
    return study("dynamics")


@pytest.fixture
def features(module):
    return module.whitened(np.random.default_rng(0).normal(size=(N, D)), K, means=0.7)


def test_on_the_central_path_the_loss_is_that_of_the_means_singular_values(module, features):
    """With CᵀC = VΩ²Vᵀ, A = ω/(K + ω²) along each pair: ½ω²/(K + ω²)² within, ½K/(K + ω²)² between classes."""
    omega = module.singular_values(features, K)
    _, loss = module.least_squares(features, K)
    assert loss == pytest.approx(0.5 * np.sum(1 / (K + omega**2)), rel=1e-13)
    labels = np.repeat(np.arange(K), N // K)
    weights, _ = module.least_squares(features, K)
    found = ufm.measure(features, labels, weights[:-1].T, weights[-1])
    assert found.nc1 == pytest.approx(np.sum(omega**-2.0), rel=1e-12)


def test_features_of_one_covariance_flow_by_their_means_alone(module, features):
    """The gradient by E is AᵀA E up to sign, normal to EᵀE = N I; along a singular pair n dω/dt = ω/(K + ω²)²."""
    velocity = module.projected(features, K)
    means, within = module.of_classes(velocity, K)
    np.testing.assert_allclose(within, 0.0, atol=1e-16)
    at, _ = module.of_classes(features, K)
    left, omega, right = np.linalg.svd(at - at.mean(axis=0), full_matrices=False)
    speeds = np.diag(left.T @ means @ right.T)[: K - 1]
    np.testing.assert_allclose(speeds, omega[: K - 1] / (K + omega[: K - 1] ** 2) ** 2 * K / N, rtol=1e-12)
    # a projection of the direction of steepest descent: down it the loss falls by its square
    ends = [module.least_squares(features + sign * 1e-4 * velocity, K)[1] for sign in (-1, 1)]
    assert (ends[1] - ends[0]) / 2e-4 == pytest.approx(-np.sum(velocity**2), rel=1e-6)


def test_singular_values_grow_by_the_implicit_formula(module):
    n, start, step = N // K, 0.3, 1e-4
    for time in (1.0, 30.0, 1e3):
        before, at, after = (module.along(t, start, K, n) for t in (time - step, time, time + step))
        assert (after - before) / (2 * step) == pytest.approx(at / (n * (K + at**2) ** 2), rel=1e-7)
    assert module.along(0.0, start, K, n) == pytest.approx(start, rel=1e-14)
    # ω⁴ = 4t/n − 4Kω² − …: relatively K(4t/n)^{−1/2} less, and what started differently becomes one
    late = [module.along(1e12, first, K, n) / (4e12 / n) ** 0.25 for first in (0.01, 10.0)]
    assert late == pytest.approx([1 - K / np.sqrt(4e12 / n)] * 2, abs=1e-8)


def test_slopes_are_of_the_terminal_phase(module):
    steps = np.arange(0, 4000, 5)
    for power in (1, 2):
        fast, slow = np.exp(-0.2 * power * steps), 1e-3 * np.exp(-0.02 * power * steps)
        rounding = np.where(steps % 10, 1e-33, 1e-26) if power == 2 else np.full(steps.shape, 1e-16)
        assert module.slope(steps, fast + slow + rounding, power) == pytest.approx(-0.02 * power, rel=1e-3)
    assert np.isnan(module.slope(steps, np.ones(len(steps)), 1))


def test_what_is_last_is_the_slowest_and_a_tie_is_one(module):
    assert module.last(np.array([1.0, np.nan, 2.0, 2.0]), 0.01) == module.UNKNOWN
    rates = np.log([[4.0, 1.0, 2.0, 2.0], [4.0, 2.0, 1.5, 1.0], [4.0, 2.0, 1.0, 1.001], [1.0, 2.0, 2.0, 2.0]])
    assert [module.PHASES[index] for index in module.last(rates, 0.01)] == [
        module.PHASES[1],
        "NC3",
        "NC2 and NC3 alike",
        "NC1",
    ]


def test_nc1_is_not_last_and_without_a_bias_the_diagram_is_that_of_every_n(module):
    random = np.random.default_rng(0)
    for _ in range(12):
        price, ratio = float(10 ** random.uniform(-4, -0.01)), float(10 ** random.uniform(-3, 3))
        for index in range(3):
            configs = [module.Config(per_class=n) for n in (3, 50)]
            posed = [
                module.problem_at(config, list(module.settings(config))[index], price, ratio) for config in configs
            ]
            few, many = (ufm.predict(problem).rates for problem in posed)
            for rates in (few, many):
                assert rates["nc1"] > min(rates["nc2"], rates["nc3"])
            if not posed[0].bias:
                for name in module.POWERS:
                    assert few[name] / posed[0].lambda_H == pytest.approx(many[name] / posed[1].lambda_H, rel=1e-9)

import jax
import numpy as np
import pytest

import ufm

SIGNS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)  # of Hadamard: a simplex


@pytest.fixture
def module(study):
    return study("optimizers")


@pytest.fixture
def config(module):
    """Four classes in six dimensions, as many samples as a corner of the box needs."""
    return module.Config(dim=6, per_class=3)


def corner(config, a, h):
    """A of entries ±a and H of ±h, each class in the direction of its row."""
    signs = np.tile(SIGNS, config.dim // 3)
    return ufm.Params(h * np.repeat(signs, config.per_class, axis=0), a * signs, np.zeros(4))


def slope(problem, params):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.grad(problem.objective)(params))


def test_no_point_of_the_box_has_less_risk_than_a_simplex_of_signs(module, config):
    problem, lam, random = module.without_decay(config), 2.0, np.random.default_rng(0)
    least = float(module.least_risk(config, np.array(lam)))
    assert problem.objective(corner(config, 1 / lam, 1 / lam)) == pytest.approx(least, rel=1e-12)
    for shape in range(40):
        start = problem.init(shape)
        inside = [
            random.uniform(-1, 1, x.shape) if shape % 2 else random.choice([-1.0, 1.0], x.shape) for x in start[:3]
        ]
        assert problem.objective(ufm.Params(*(x / lam for x in inside))) > least
    # at the corner no entry can go outwards, and into the box the risk rises: −g has the sign of x
    at = corner(config, 1 / lam, 1 / lam)
    down = slope(problem, at)
    assert (down.A * at.A < 0).all()
    assert (down.H * at.H < 0).all()
    np.testing.assert_allclose(down.b, 0.0, atol=1e-15)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-4, 3e-3])
def test_adamws_fixed_points_are_critical_points_of_risk_and_a_barrier(module, config, epsilon):
    """With u = λx = −g/(|g| + ε), (ε/λ) dβ(λx)/dx = ε u/(1 − |u|) = −g."""
    a, h = module.simplex_of_signs(config, epsilon) / config.box
    at = corner(config, a, h)
    assert module.off_fixed(config, at, epsilon, config.box) < 1e-12
    g = slope(module.without_decay(config), at)
    for x, found in ((at.A, g.A), (at.H, g.H)):
        u = config.box * x
        np.testing.assert_allclose(epsilon * u / (1 - np.abs(u)), -found, rtol=1e-6)
    assert module.off_fixed(config, corner(config, 0.9 * a, h), epsilon, config.box) > 1e-2


@pytest.mark.parametrize("lam", [1e-1, 1e-3])
def test_far_inside_the_box_the_barrier_is_an_ordinary_decay(module, config, lam):
    """Where −g = ελ x, λx + g/(|g| + ε) is ±(λx)²/(1 + λ|x|): of second order in the share of the box."""
    decay = 2e-2
    problem = ufm.Problem(4, config.dim, per_class=config.per_class, lambda_A=decay, lambda_H=decay)
    known = ufm.predict(problem)
    a, h = known.norm_A / np.sqrt(4 * config.dim), known.norm_H / np.sqrt(4 * config.per_class * config.dim)
    at = corner(config, a, h)
    assert problem.objective(at) == pytest.approx(known.value, rel=1e-12)  # a minimum, in these axes
    share = lam * max(a, h)
    assert module.off_fixed(config, at, decay / lam, lam) == pytest.approx(share**2 / (1 + share), rel=1e-8)


def test_an_odd_number_of_classes_is_refused(module):
    with pytest.raises(ValueError, match="num_classes = 5: an even number"):
        module.Config(num_classes=5)

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from ufm._core.status import Status
from ufm.minima import solver


def quartic(x, args):
    """½ Σ c_i (x_i − t)² + ¼ Σ (x_i − t)⁴ + 1, lane by lane: least at x = t, where it is 1."""
    moved = x - args["target"][None]
    return 1.0 + 0.5 * jnp.sum(args["curvature"] * moved**2, axis=0) + 0.25 * jnp.sum(moved**4, axis=0)


def unbounded(x, args):
    return -jnp.sum(args["curvature"] * jnp.exp(x**2), axis=0)


def lanes(count, seed=0, condition=3.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(12, count)), {
        "target": random.normal(size=count) + 3.0,
        "curvature": 10.0 ** random.uniform(-condition, 0, size=(12, count)),
    }


def test_every_lane_reaches_its_own_minimum_whatever_the_batch():
    for count in (1, 8, 9, 75):
        starts, args = lanes(count)
        with jax.enable_x64(True):
            found = solver.minimize(quartic, starts, args, tol=1e-12)
        assert found.status == [Status.CONVERGED] * count
        assert_allclose(found.value, 1.0, rtol=1e-14)
        # where c = 1e-3 the quartic flattens and x is known to about the cube root of the gradient
        assert_allclose(found.x, np.broadcast_to(args["target"], found.x.shape), atol=1e-5)
        assert np.all(found.steps < 400)


def test_a_lane_does_not_depend_on_its_company():
    starts, args = lanes(70)
    with jax.enable_x64(True):
        together = solver.minimize(quartic, starts, args, tol=1e-12)
        some = [3, 41, 69]
        alone = solver.minimize(
            quartic,
            np.tile(starts[:, some], 11),
            jax.tree.map(lambda leaf: np.tile(leaf[..., some], 11), args),
            tol=1e-12,
        )
    assert np.array_equal(alone.x[:, :3], together.x[:, some])
    assert np.array_equal(alone.steps[:3], together.steps[some])


def test_newton_finishes_what_too_few_steps_leave():
    starts, args = lanes(4)
    with jax.enable_x64(True):
        few = solver.minimize(quartic, starts, args, tol=1e-12, max_steps=25)
    assert few.status == [Status.CONVERGED] * 4
    assert np.all(few.steps == 25)


def test_statuses_tell_apart_too_few_steps_and_no_minimum(monkeypatch):
    starts, args = lanes(2)
    with jax.enable_x64(True):
        assert solver.minimize(unbounded, starts, args).status == [Status.DIVERGED] * 2
        monkeypatch.setattr(solver, "NEWTON_SIZE", 0)
        assert solver.minimize(quartic, starts, args, max_steps=2).status == [Status.MAX_STEPS] * 2
    assert "raise max_steps" in str(Status.MAX_STEPS)


def test_finished_lanes_are_counted():
    starts, args = lanes(40)
    counts = []
    with jax.enable_x64(True):
        solver.minimize(quartic, starts, args, advanced=counts.append)
    assert counts[-1] == 40
    assert counts == sorted(counts)


EVERY_DEVICE = """
import jax, numpy as np, ufm
from ufm.minima.optimum import minimize_all
decays = np.geomspace(1e-4, 1e-1, 40).tolist()
problems = [ufm.Problem(3, 4, per_class=[9, 4, 2], lambda_A=d, lambda_H=1e-3) for d in decays]
found = minimize_all(problems, [0] * len(problems))
print(len(jax.local_devices()), *(best.value.hex() for best in found))
"""


@pytest.mark.slow
def test_several_devices_find_the_same_bits():
    # a lane doesn't see which other lanes it shares a batch with, nor where
    def run(devices):
        flags = f"--xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, "-c", EVERY_DEVICE],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        )
        count, *values = done.stdout.split()
        assert int(count) == devices
        return values

    assert run(1) == run(3)

"""Groups of samples and outputs are two numbers: a group split in two of one label is the same problem."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from zoo import problem

import ufm
from ufm._core import blocks
from ufm._core.precision import float64
from ufm.minima.bias import best_bias, biases_at_zero
from ufm.minima.dual import bound_of_lane, streamed_bound_of_lane
from ufm.minima.lane_objective import gradient_norm, objective, plain_objective, unfold, variables
from ufm.minima.reduction import LaneParams, Reduced, falls_exponentially, lane_of, reduce, side_by_side
from ufm.minima.starts import informed_start

OWNERS = [0, 0, 1, 1, 2]  # whose samples, of three classes, each of five groups has
SHARES = np.array([0.25, 0.75, 0.5, 0.5, 1.0])


def split(lane: Reduced) -> Reduced:
    """Three groups as five: the counts and weights of two are shared out among four."""
    words = {name: getattr(lane, name)[OWNERS] * SHARES for name in ("counts", "weights")}
    return dataclasses.replace(lane, group_labels=tuple(OWNERS), **words)


KINDS = {
    "free bias": {"per_class": [7, 3, 2], "class_weights": [1.0, 2.0, 0.5]},
    "balls": {"lambda_H": 0.0, "features": ufm.Ball(2.0), "classifier": ufm.Ball(9.0)},
    "user": {"loss": lambda z, y: jnp.sum(z**4) - z[y], "lambda_b": 0.3},
}


@pytest.fixture(params=KINDS)
def both(request):
    """Reduced problems of three and of five groups in one lane each, and parameters of the first."""
    p = problem(**KINDS[request.param])
    lane = lane_of(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p))
    random = np.random.default_rng(0)
    params = LaneParams(*(random.normal(size=shape) for shape in ((3, 3), (3, 3), 3)))
    if not p.bias:
        params = params._replace(b=np.zeros(3))
    return lane, split(lane), params


def of_five(params):
    return params._replace(H=params.H[OWNERS])


def in_lanes(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[..., None], tree)


def test_values_and_gradients(both):
    three, five, params = both
    with float64():
        for of in (plain_objective, gradient_norm):
            wanted = jax.jit(of)(in_lanes(params), side_by_side([three]))
            found = jax.jit(of)(in_lanes(of_five(params)), side_by_side([five]))
            assert_allclose(found, wanted, rtol=1e-12)


def test_variables_and_what_the_solver_minimises(both):
    _, five, params = both
    with float64():
        lanes = side_by_side([five])
        x = jax.jit(variables)(in_lanes(of_five(params)), lanes)
        assert x.shape == (lanes.factor_size + 3 * (five.bias_kind != "none"), 1)
        at = jax.jit(unfold)(x, lanes)
        assert [part.shape for part in jax.tree.leaves(at)] == [(5, 3, 1), (3, 3, 1), (3, 1)]
        value = jax.jit(plain_objective)(at, lanes)
        if falls_exponentially(lanes):  # log log of the number of outputs, not of groups
            value = jnp.log(value / jnp.sum(five.weights)) - 2.0 - np.log(np.log(3))
        assert_allclose(jax.jit(objective)(x, lanes), value, rtol=1e-12)


def test_biases(both):
    three, five, params = both
    with float64():
        zero = [jax.jit(biases_at_zero)(side_by_side([lane])) for lane in (three, five)]
        assert_allclose(zero[1], zero[0], atol=1e-9)
        if three.bias_kind != "none":
            products = params.A @ params.H.T
            best = [jax.jit(best_bias)(three, products, params.b)]
            best.append(jax.jit(best_bias)(five, products[:, OWNERS], params.b))
            assert_allclose(best[1], best[0], atol=1e-9)


@pytest.mark.parametrize("both", ["free bias"], indirect=True)
def test_starts(both):
    three, five, _ = both
    with float64():
        values = []
        for lane in (three, five):
            lanes = side_by_side([lane])
            start = informed_start(lanes)
            lanes = dataclasses.replace(lanes, bias_scale=start.bias_scale)
            values.append(float(jax.jit(plain_objective)(jax.jit(unfold)(start.x, lanes), lanes)[0]))
    # the three lines of logits are the same, and so are the singular values of their frames
    assert_allclose(values[1], values[0], rtol=1e-9)


@pytest.mark.parametrize("in_blocks", [False, True])
def test_bounds(both, in_blocks, monkeypatch):
    three, five, params = both
    monkeypatch.setattr(blocks, "LOGITS_AT_ONCE", 6)
    of = streamed_bound_of_lane if in_blocks else jax.jit(bound_of_lane)
    with float64():
        wanted, found = (float(of(lane, at)) for lane, at in ((three, params), (five, of_five(params))))
    # in blocks the best bias is found by few steps of L-BFGS, whose path depends on the groups
    assert_allclose(found, wanted, rtol=1e-7 if in_blocks else 1e-10)


def test_class_labels_are_as_many_groups_as_outputs():
    reduced = reduce([problem(per_class=[7, 3, 2])])
    assert (reduced.num_groups, reduced.num_classes, reduced.group_labels) == (3, 3, range(3))
    assert [(factor.name, factor.rows, factor.width, factor.size) for factor in reduced.factors()] == [
        ("H", 3, 3, 9),
        ("A", 3, 3, 9),
    ]
    assert_allclose(reduced.factors()[0].row_decay[:, 0], [7e-2, 3e-2, 2e-2])

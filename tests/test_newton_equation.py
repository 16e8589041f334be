"""Newton's equation where rows are many: forms of it that are one another's equal, and an inverse that is exact."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import ufm
from ufm.minima import newton_equation, proximal_newton
from ufm.minima.blocks import bias_inverse, curvature
from ufm.minima.newton_equation import Equation
from ufm.minima.proximal_newton import solve
from ufm.minima.rows import rows_of

BIASES = {"none": {"bias": False}, "free": {}, "regularised": {"lambda_b": 0.03}}


def blocks_of(bias, M=14, K=4, price=1e-2, loss=None):
    """Soft targets of many groups."""
    random = np.random.default_rng(3)
    targets = ufm.Targets(random.dirichlet(np.full(K, 0.6), M), random.integers(1, 9, M))
    words = {"lambda_A": price, "lambda_H": price / M, "dim": K + 1, "loss": loss or ufm.CrossEntropy()}
    return rows_of(ufm.Problem(targets=targets, **words, **BIASES[bias]))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("loss", [ufm.CrossEntropy(), ufm.SquaredError()])
def test_rows_beyond_pairs_are_what_a_square_basis_has(bias, loss, monkeypatch):
    blocks = blocks_of(bias, loss=loss)
    thin = solve(blocks)
    monkeypatch.setattr(proximal_newton, "THIN", np.inf)
    square = solve(blocks)
    assert thin.status.ok
    assert_allclose(thin.value, square.value, rtol=1e-13)
    assert_allclose(thin.point.C, square.point.C, atol=1e-9 * np.abs(square.point.C).max())
    monkeypatch.setattr(proximal_newton, "THIN", 1.5)
    monkeypatch.setattr(newton_equation, "MOST_PAIRS", 0)  # by mean curvatures
    assert_allclose(solve(blocks).point.C, thin.point.C, atol=1e-9 * np.abs(thin.point.C).max())


@pytest.mark.parametrize("price", [1e-4, 1e-2])
@pytest.mark.parametrize("bias", ["none", "free"])
def test_the_inverse_row_by_row_is_exact_where_all_columns_live(bias, price):
    # (Ĥ + P) B R = R for R in the space of E, by Woodbury's identity
    blocks = blocks_of(bias, price=price)
    newton = proximal_newton._Newton(blocks)
    state = newton.begin(solve(blocks).point)
    frame = state.frame
    assert frame.thin
    assert frame.rank == len(frame.sigma)
    hessian = curvature(blocks, state.here.at, np.zeros(blocks.num_sizes, bool))
    inverse = bias_inverse(blocks, hessian) if bias == "free" else None
    equation = Equation(frame, hessian, blocks.bias_axis, inverse, newton.price(frame), blocks.own)
    right = frame.within(np.random.default_rng(0).normal(size=state.C.shape))
    assert_allclose(equation @ equation.preconditioner()(right), right, atol=1e-11 * np.abs(right).max())


def test_no_array_is_of_rows_by_rows():
    # 30,000 rows by rows would be 7 GB
    blocks = blocks_of("free", M=30_000, K=3, price=1e-4)
    found = solve(blocks)
    assert found.status.ok
    assert found.gap <= 1e-11 * found.value

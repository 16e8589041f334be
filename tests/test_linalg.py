import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm._core import linalg
from ufm._core.precision import float64

DECOMPOSITIONS = {
    "eigh": np.linalg.eigh,
    "svd": np.linalg.svd,
    "operator_norm": lambda X: np.linalg.svd(X, compute_uv=False)[0],
    "largest_eigenvalue": lambda X: np.linalg.eigvalsh(X)[-1],
}


def matrices(*shape):
    X = np.random.default_rng(0).normal(size=shape)
    return X + np.swapaxes(X, -1, -2)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_decompositions_are_numpys_alone_and_under_vmap(name):
    X, mine = matrices(2, 3, 5, 5), getattr(linalg, name)
    with float64():
        alone, inner = mine(jnp.asarray(X[0, 0])), jax.vmap(mine)(jnp.asarray(X[0]))
        both = jax.vmap(jax.vmap(mine))(jnp.asarray(X))
    for one, three, six in zip(*map(jax.tree.leaves, (alone, inner, both)), strict=True):
        np.testing.assert_array_equal(one, three[0])
        np.testing.assert_array_equal(three, six[0])
    # vectors are determined up to signs: what they put together is compared, or the values
    theirs, alone = DECOMPOSITIONS[name](X[0, 0]), jax.tree.map(np.asarray, alone)
    if name == "svd":
        left, values, right = alone
        np.testing.assert_allclose((left * values) @ right, X[0, 0], atol=1e-13)
    elif name == "eigh":
        values, vectors = alone
        np.testing.assert_allclose(values, theirs.eigenvalues, atol=1e-13)
        np.testing.assert_allclose((vectors * values) @ vectors.T, X[0, 0], atol=1e-13)
    else:
        np.testing.assert_allclose(alone, theirs, atol=1e-13)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_derivatives_are_differences_of_values(name):
    # eigenvalues and singular values are simple here; vectors are summed in squares, which have no sign
    def value(X):
        return sum(jnp.sum(jnp.sin(leaf) ** 2) for leaf in jax.tree.leaves(getattr(linalg, name)(X)))

    X, step = matrices(3, 4, 4), 1e-6 * matrices(4, 4)
    with float64():
        gradients = jax.vmap(jax.grad(value))(jnp.asarray(X))
        ahead, behind = (jax.vmap(value)(jnp.asarray(X + s * step[None])) for s in (1, -1))
    along = np.sum(np.asarray(gradients) * step[None], axis=(1, 2))
    np.testing.assert_allclose(along, (np.asarray(ahead) - np.asarray(behind)) / 2, rtol=1e-5)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_no_batch_reaches_lapack(name):
    # jaxlib splits batches over the pool its callers wait in: two of them side by side can wait for ever
    if jax.default_backend() != "cpu":
        pytest.skip("batches are an accelerator's strength")
    with float64():
        text = jax.jit(jax.vmap(getattr(linalg, name))).lower(matrices(3, 7, 7)).as_text()
    calls = [line for line in text.splitlines() if "custom_call @lapack" in line]
    assert calls
    assert not any("tensor<3x" in line for line in calls)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_a_numpy_matrix_is_decomposed_by_numpy(name):
    X = matrices(5, 5)
    found, theirs = getattr(linalg, name)(X), DECOMPOSITIONS[name](X)
    for mine, other in zip(*map(jax.tree.leaves, (found, theirs)), strict=True):
        assert not isinstance(mine, jax.Array)
        np.testing.assert_allclose(mine, other, rtol=1e-14)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_has_no_decomposition_is_not_finite_in_numpy_nor_in_jax(name, value):
    X = np.where(np.eye(3, k=1) + np.eye(3, k=-1) > 0, value, matrices(3, 3))
    with float64():
        theirs = getattr(linalg, name)(jnp.asarray(X))
    for mine, other in zip(*map(jax.tree.leaves, (getattr(linalg, name)(X), theirs)), strict=True):
        assert np.shape(mine) == np.shape(other)
        assert not np.any(np.isfinite(mine))
        assert not np.any(np.isfinite(other))

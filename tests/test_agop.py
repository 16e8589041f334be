import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ufm._core.precision import float64


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 6)), rng.integers(10, size=20)


@pytest.mark.parametrize("kernel", ["laplace", "gauss"])
def test_gradients_are_those_of_the_regression(study, samples, kernel):
    """Against autodiff of f(x) = Σ_j α_j k(x, x_j), where the term of x itself is constant: the cusp counts as flat."""
    machine = study("agop").fit(kernel, 1.7, 1e-3, *samples)

    def scores(x):
        squares = jnp.sum((jnp.asarray(machine.X) - x[None, :]) ** 2, axis=1)
        distances = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        k = jnp.exp(-distances / 1.7) if kernel == "laplace" else jnp.exp(-squares / (2 * 1.7**2))
        return k @ jnp.asarray(machine.alpha)

    with float64():
        expected = np.asarray(jax.jit(jax.vmap(jax.jacrev(scores), out_axes=1))(jnp.asarray(machine.X)))
    found = machine.gradients()
    np.testing.assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max(), rtol=0)
    outer = sum(np.outer(g, g) for gradients in expected for g in gradients) / len(machine.X)
    np.testing.assert_allclose(machine.agop(), outer, atol=1e-12 * np.abs(outer).max(), rtol=0)


@pytest.mark.parametrize("kernel", ["laplace", "gauss"])
def test_regression_solves_the_ridge_equations(study, samples, kernel):
    """(K + ρI) α = Y is where the gradient of ½‖f − Y‖² + (ρ/2)⟨α, Kα⟩ vanishes: residuals Y − f are ρ α."""
    X, labels = samples
    machine = study("agop").fit(kernel, 2.0, 1e-3, X, labels)
    targets = np.where(labels[:, None] == np.arange(10)[None, :], 1.0, -1.0)
    np.testing.assert_allclose(targets - machine(X), 1e-3 * machine.alpha, atol=1e-9)


def test_root_is_a_square_root(study):
    X = np.random.default_rng(0).normal(size=(3, 7))
    root = study("agop").root(X.T @ X)
    np.testing.assert_allclose(root @ root, X.T @ X, atol=1e-12)
    np.testing.assert_allclose(root, root.T, atol=1e-12)


@pytest.fixture(scope="module")
def table(study, seeds):
    agop = study("agop")
    return agop.data(agop.Config(per_class=20, width=128, layers=4, seeds=seeds))


def test_agop_collapses_and_random_features_alone_do_not(table):
    for name in ("Laplace kernel", "Gaussian kernel"):
        with_agop = table.sel(machine=name)
        for metric in ("nc1", "trace_ratio"):
            assert (with_agop[metric].diff("layer") < 0).all(), (name, metric)
            assert (with_agop[metric][:, -1] < 0.1 * with_agop[metric][:, 0]).all(), (name, metric)
        assert (with_agop.nc2[:, -1] < 0.6 * with_agop.nc2[:, 0]).all(), name
        # the map by the AGOP's root is what collapses: at every layer it lowers the ratio, which random features raise
        assert (with_agop.trace_ratio_mapped < with_agop.trace_ratio).all(), name
        assert (with_agop.test_accuracy > 0.85).all(), name
    control = table.sel(machine="no AGOP (Laplace kernel)")
    assert (control.trace_ratio[:, -1] > 1.5 * control.trace_ratio[:, 0]).all()
    assert (control.nc1[:, -1] > 0.5 * control.nc1[:, 0]).all()
    assert (control.nc2[:, -1] > 0.6 * control.nc2[:, 0]).all()


def test_files_hold_what_is_drawn(study, table, written):
    out, arrays = written(study("agop"), table)
    assert "Gaussian kernel, layer 4" in out
    assert {"layer", "machine"} <= set(arrays)
    assert arrays["nc1"].shape == arrays["nc2_mapped"].shape == (3, table.sizes["seed"], 5)

import numpy as np
import pytest


@pytest.fixture(scope="module")
def module(study):
    return study("forced_etf")


@pytest.fixture(scope="module")
def table(module, seeds):
    network = module.Architecture(widths=(128, 64), linear=True)
    return module.data(module.Config(small=(100, 3), network=network, seeds=seeds, epochs=300))


def test_a_fixed_simplex_loses_nothing_with_balance_and_wins_without(module, table):
    assert (table.accuracy == 1.0).all()
    assert (table.nc1 < 0.1).all()
    learned, fixed = (table.sel(classifier=name) for name in module.CLASSIFIERS)
    balanced = fixed.sel(small=100).small_accuracy - learned.sel(small=100).small_accuracy
    assert (np.abs(balanced) < 0.05).all()
    learned, fixed = learned.sel(small=3), fixed.sel(small=3)
    assert (fixed.small_accuracy > learned.small_accuracy + 0.04).all()
    assert (fixed.large_accuracy > learned.large_accuracy - 0.05).all()
    assert (fixed.nc2 < learned.nc2 / 2).all()
    np.testing.assert_allclose(fixed.cosine, -1.0 / 9.0, atol=1e-6)  # float32
    # what the model's certified minimum says of a learned classifier
    np.testing.assert_allclose(learned.nc2, float(learned.predicted_nc2), rtol=0.3)
    assert (learned.cosine > -1.0 / 9.0 + 0.5 * (float(learned.predicted_cosine) + 1.0 / 9.0)).all()


def test_mean_cosine_of_a_simplex_and_of_merged_rows(module):
    A = 3.0 * module.ufm.geometry.simplex_etf(10, 20)
    np.testing.assert_allclose(module.mean_cosine(A), -1.0 / 9.0, rtol=1e-12)
    A[5:] = A[5] * np.arange(1, 6)[:, None]
    np.testing.assert_allclose(module.mean_cosine(A), 1.0, rtol=1e-12)


def test_files_hold_what_is_drawn(module, table, written):
    out, arrays = written(module, table)
    assert "100 samples, UFM" in out
    assert "predicted_nc2" in arrays
    assert arrays["small_accuracy"].shape == (2, 2, table.sizes["seed"])

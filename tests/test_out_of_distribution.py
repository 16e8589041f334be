import dataclasses

import numpy as np
import pytest


@pytest.fixture(scope="module")
def module(study):
    return study("out_of_distribution")


@pytest.fixture(scope="module")
def table(module, seeds):
    default = module.Config()
    network = dataclasses.replace(default.network, widths=(128, 128, 64))
    recipe = dataclasses.replace(default.recipe, epochs=150, batch=64)
    words = {"per_class": 64, "network": network, "recipe": recipe, "shifts": (2,), "noise": 300, "seeds": seeds}
    return module.data(dataclasses.replace(default, **words))


def test_what_was_not_trained_on_is_not_collapsed(module, table):
    known, test = table.sel(samples="training samples"), table.sel(samples="test samples")
    assert (known.accuracy == 1.0).all()
    assert (test.accuracy > 0.95).all()
    for name in ("shifted by 2", "digits held out", "Gaussian noise"):
        strange = table.sel(samples=name)
        assert (strange.nc1 > 20 * known.nc1).all(), name
        assert (strange.nc1 > 4 * test.nc1).all(), name
        for metric in ("nc2", "nc3"):
            assert (strange[metric] > 1.5 * known[metric]).all(), (name, metric)
        assert (strange.distance > 3 * test.distance).all(), name
        assert (strange.confidence < test.confidence - 0.15).all(), name
        assert (strange.auroc > 0.9).all(), name
        # confidence falls with distance, near the law of the simplex
        assert (strange.binned_confidence.diff("bin") < 0).all(), name
        law = module.straight(strange.binned_distance.values, float(known.binned_confidence[0]))
        assert np.abs(strange.binned_confidence.values - law).max() < 0.15, name


def test_confidence_on_the_way_from_vertex_to_centre(module):
    """Against the softmax of A (h − μ_G) for a simplex ETF A = M and features (1 − s) t' m_k, s² the distance."""
    K = module.KNOWN
    M = module.ufm.geometry.simplex_etf(K, K, seed=1)
    for scale in (1.0, 6.0):
        for s in (0.0, 0.3, 1.0):
            z = scale * (1.0 - s) * M @ M[2]
            confidence = np.exp(z[2]) / np.exp(z).sum()
            vertex = np.exp(scale * M @ M[2])
            found = module.straight(np.asarray(s**2), vertex[2] / vertex.sum())
            np.testing.assert_allclose(found, confidence, rtol=1e-12)


def test_shift_moves_to_the_right(module):
    X = np.arange(128, dtype=float).reshape(2, 64)
    moved = module.shifted(X, 2).reshape(2, 8, 8)
    assert np.array_equal(moved[:, :, 2:], X.reshape(2, 8, 8)[:, :, :-2])
    assert not moved[:, :, :2].any()


def test_files_hold_what_is_drawn(module, table, written):
    out, arrays = written(module, table)
    assert "digits held out" in out
    assert "auroc" in arrays
    assert arrays["nc1"].shape == (5, table.sizes["seed"])
    assert arrays["binned_distance"].shape == (5, 8)

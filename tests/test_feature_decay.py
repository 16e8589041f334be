import numpy as np
import pytest

import ufm


@pytest.fixture(scope="module")
def module(study):
    return study("feature_decay")


@pytest.fixture(scope="module")
def config(module, seeds):
    """A smaller one."""
    return module.Config(
        per_class=40,
        perceptron=module.Architecture(widths=(128, 32), linear=True),
        convolutional=module.Architecture(widths=(64, 32), channels=(16,), linear=True),
        lambda_H=5e-5,
        epochs=300,
        batch=50,
        snapshots=3,
        seeds=seeds,
    )


@pytest.fixture(scope="module")
def table(module, config):
    return module.data(config)


def test_networks_end_at_the_minimum_of_the_model_whatever_the_labels(module, config, table):
    problem = module.problem_of(config, config.perceptron)
    theory = ufm.predict(problem)
    np.testing.assert_allclose(table["minimum/objective"], theory.value, rtol=1e-9)
    assert table["minimum/gap"] < 1e-9
    assert (table.excess > -1e-6).all()  # a certified minimum: nothing lies below, but for float32
    first, last = table.isel(epoch=0), table.isel(epoch=-1)
    assert (last.accuracy == 1.0).all()
    assert (last.excess < 0.15).all()
    assert (last.excess < first.excess / 20).all()
    for name in ("norm_A", "norm_H"):
        assert (np.abs(last[name] / table[f"minimum/{name}"] - 1.0) < 0.15).all(), name
    for name in ("gram_H", "gram_A"):
        assert (last[name] < 0.25).all(), name
        assert (last[name] < first[name] / 3).all(), name
    random = [name for name in table.network.values if "random" in name]
    assert (last.test_accuracy.sel(network=random) < 0.25).all()


def test_norms_of_the_minimum_balance(config, table):
    """At every critical point λ_A ‖A‖² = λ_H ‖H‖²: the norm of all N features, not of the K means, is what is drawn."""
    of_A, of_H = (float(table[f"minimum/{name}"]) for name in ("norm_A", "norm_H"))
    np.testing.assert_allclose(config.lambda_A * of_A**2 / (config.lambda_H * of_H**2), 1.0, rtol=1e-8)


def test_files_hold_what_is_drawn(module, table, written):
    out, arrays = written(module, table)
    assert "CNN, random labels, seed 0" in out
    assert "minimum/objective" in arrays
    assert arrays["excess"].shape == (4, table.sizes["seed"], 3)

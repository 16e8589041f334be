import numpy as np
import pytest

import ufm


@pytest.fixture
def small(study):
    """The study, and a smaller configuration of it."""
    module = study("feature_decay")
    return module, lambda **changes: module.Config(
        **(
            {
                "per_class": 40,
                "perceptron": module.Architecture(widths=(128, 32), linear=True),
                "convolutional": module.Architecture(widths=(64, 32), channels=(16,), linear=True),
                "lambda_H": 5e-5,
                "epochs": 300,
                "batch": 50,
                "snapshots": 3,
                "seeds": 2,
            }
            | changes
        )
    )


def test_networks_end_at_the_minimum_of_the_model_whatever_the_labels(small):
    module, config_of = small
    config = config_of()
    table = module.data(config)
    problem = module.problem_of(config, config.perceptron)
    theory = ufm.predict(problem)
    np.testing.assert_allclose(table.attrs["objective"], theory.value, rtol=1e-9)
    assert table.attrs["gap"] < 1e-9
    assert (table.excess > -1e-6).all()  # a certified minimum: nothing lies below, but for float32
    first, last = table.isel(epoch=0), table.isel(epoch=-1)
    assert (last.accuracy == 1.0).all()
    assert (last.excess < 0.15).all()
    assert (last.excess < first.excess / 20).all()
    for name in ("norm_A", "norm_H"):
        assert (np.abs(last[name] / table.attrs[name] - 1.0) < 0.15).all(), name
    for name in ("gram_H", "gram_A"):
        assert (last[name] < 0.25).all(), name
        assert (last[name] < first[name] / 3).all(), name
    random = [name for name in table.network.values if "random" in name]
    assert (last.test_accuracy.sel(network=random) < 0.25).all()


def test_norms_of_the_minimum_balance(small):
    """At every critical point λ_A ‖A‖² = λ_H ‖H‖²: the norm of all N features, not of the K means, is what is drawn."""
    module, config_of = small
    table = module.data(config_of(epochs=1, seeds=1, snapshots=2))
    ratio = 5e-3 * table.attrs["norm_A"] ** 2 / (5e-5 * table.attrs["norm_H"] ** 2)
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-8)


def test_files_hold_what_is_drawn(small, tmp_path, capsys):
    module, config_of = small
    module.main(config_of(epochs=2, seeds=1, snapshots=3, output=tmp_path / "figure.png"))
    assert "CNN, random labels, seed 0" in capsys.readouterr().out
    with np.load(tmp_path / "figure.npz") as file:
        assert {"command", "versions", "minimum/objective", "excess"} <= set(file)
        assert file["excess"].shape == (4, 1, 3)
    assert (tmp_path / "figure.png").stat().st_size > 10_000

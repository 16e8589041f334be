import jax
import numpy as np
import pytest


@pytest.fixture(scope="module")
def module(study):
    return study("depth")


@pytest.fixture(scope="module")
def config(module):
    """A smaller one."""
    return module.Config(
        num_classes=3,
        dim=12,
        per_class=4,
        depths=(2, 4),
        points=9,
        shares=(0.5, 1.1, 1.5),
        scales=(0.2, 2.0),
        seeds=2,
        steps=3000,
        relu_classes=(3,),
        relu_layers=(2,),
        relu_steps=300,
        samples=10,
        below=(64,),
        width=24,
        lambda_H=5e-5,
        epochs=3000,
        adam_rate=5e-3,
        snapshots=4,
    )


@pytest.fixture(scope="module")
def table(module, config):
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic mixes its counts with floats
        return module.data(config)


def test_minima_are_theory_s_and_jump_where_it_says(table):
    assert (table.gap < 1e-10).all()
    at_price = table.isel(fine=slice(None, None, 16))  # the finer grid has each point of the other
    np.testing.assert_allclose(at_price.fine, table.price)
    least = np.fmin(at_price["predicted/living"], at_price["predicted/zero"])
    np.testing.assert_allclose(table["value"], least.values, rtol=1e-10)
    alive = table.price < table.jump
    assert set(alive.values.ravel()) == {True, False}
    expected = np.where(alive.transpose("depth", "price"), at_price["predicted/x"].values, 0.0)
    np.testing.assert_allclose(table.x, expected, atol=1e-10)
    shallow = table.sel(depth=2)
    np.testing.assert_allclose(shallow.x, np.maximum(float(table.target) - table.price, 0.0), atol=1e-12)
    # of L = 4 what is left at the jump is (L−2)/(L−1) of the target
    deep = table.sel(depth=4)
    assert float(deep.x.where(deep.x > 0).min()) > 2 / 3 * float(table.target)


def test_training_ends_at_local_minima_on_either_side_of_the_jump(table):
    local = table["predicted/local"].interp(fine_share=table.share.values).values
    ends = table.end.values.reshape(3, -1)
    off = np.abs(ends[:, :, None] / local[:, None] - 1)
    assert np.all(np.nanmin(off, axis=2) < 1e-3)
    small, large = (table.alive.sel(scale=scale) for scale in (0.2, 2.0))
    assert (small == 0).all()
    assert (large.sel(share=0.5) == 3).all()
    assert (large.sel(share=1.1) > 0).any()  # metastable: above the value at zero
    assert (table.end.sel(scale=2.0, share=1.1).max() > local[1, 0] * 1.01).all()
    assert (large.sel(share=1.5) == 0).all()


def test_every_layer_collapses_along_training(table):
    first, last = table.isel(step=0), table.isel(step=-1)
    assert (last["followed/nc1"] < first["followed/nc1"] / 10).all()
    for name in ("nc2", "nc3"):
        linear = {"activation": "linear"}
        assert (last[f"followed/{name}"].sel(linear) < first[f"followed/{name}"].sel(linear) / 10).all()


def test_relu_models_end_no_higher_than_what_is_known(table):
    known = np.fmin(table["any_class/collapse"], table["any_class/low rank"]).sel(any_class=[3])
    assert (table["relu_class/found"].values <= known.values * (1 + 1e-9)).all()
    assert table["relu/cosine"].shape == (3, 3, 3)
    behind = table["relu/cosine"].isel(relu_stage=slice(1, None))
    assert (behind > -1e-12).all()  # of features that ReLU made


def test_perceptrons_have_the_singular_values_of_the_model(table):
    end = table.isel(epoch=-1)
    excess = end["digits/objective"] / table["digits/minimum"] - 1
    assert (excess.sel(activation="linear") > -1e-6).all()
    assert (excess < 0.02).all()
    assert (table["digits/accuracy"] == 1.0).all()
    off = np.abs(table["digits/singular"] / table["digits/predicted"] - 1)
    assert float(off.sel(activation="linear").max()) < 0.05
    assert float(off.isel(stage=-1).max()) < 0.05
    assert (table["digits/nc1"] < 0.05).all()


def test_slopes_that_a_layer_is_read_by_are_those_of_a_run(module, config):
    """Metrics of a perceptron's layers are computed as those of a run's."""
    import optax

    import ufm

    for activation in module.ACTIVATIONS:
        problem = module.problem_of(config, 4, 0.01, activation)
        run = ufm.train(problem, optax.sgd(0.1), steps=20, snapshots=2, precision="float64")
        _, found = module.layers_of(problem, run.params)
        for name in (*module.METRICS, "accuracy"):
            np.testing.assert_allclose(getattr(found, name), getattr(run.history.layers, name)[-1], rtol=1e-7)


def test_files_hold_what_is_drawn(module, table, written):
    out, arrays = written(module, table)
    assert "largest relative gap" in out
    assert {"predicted/local", "digits/predicted", "followed/nc2"} <= set(arrays)

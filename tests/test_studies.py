import numpy as np
import pytest


def test_collapse_collapses_in_all_three_settings(study, tmp_path, capsys):
    collapse = study("collapse")
    config = collapse.Config(
        num_classes=4, dim=8, per_class=10, steps=6000, rate_cross_entropy=1.0, output=tmp_path / "collapse.png"
    )
    collapse.main(config)
    printed = capsys.readouterr().out
    assert "sphere, last" in printed
    with np.load(tmp_path / "collapse.npz") as file:
        for name in ("cross-entropy", "squared error", "sphere"):
            for metric in ("nc1", "nc2", "nc3"):
                assert file[f"{name}/{metric}"][-1] < 1e-4
            assert file[f"{name}/nc4"][-1] == 0
        assert "jax" in str(file["versions"])
    assert (tmp_path / "collapse.png").stat().st_size > 10_000


def test_collapse_says_so_when_it_diverges(study, tmp_path):
    collapse = study("collapse")
    config = collapse.Config(
        num_classes=3, dim=4, per_class=5, steps=2000, rate_cross_entropy=0.1, rate_squared_error=300.0
    )
    with pytest.raises(SystemExit, match=r"squared error: diverged"):
        collapse.data(config)


def test_weight_decay_has_two_phases(study, tmp_path, capsys):
    weight_decay = study("weight_decay")
    config = weight_decay.Config(
        num_classes=3, dim=4, per_class=5, points=6, store=tmp_path / "s.zarr", output=tmp_path / "weight_decay.png"
    )
    table = weight_decay.data(config)
    assert table.certified.all()
    assert (table.degenerate == (table.c > table.threshold)).all()
    np.testing.assert_allclose(table["value"], table.predicted, rtol=1e-9)
    weight_decay.main(config)
    assert "36" in capsys.readouterr().out
    assert (tmp_path / "weight_decay.png").stat().st_size > 10_000


def test_norms_held_in_any_way_collapse_and_their_minima_are_known(study, tmp_path, capsys):
    normalization = study("normalization")
    config = normalization.Config(
        num_classes=4, dim=8, per_class=6, steps=4000, rate=1.0, temperatures=4, ratios=3, output=tmp_path / "n.png"
    )
    for run in normalization.train(config).values():
        assert run.history.nc1[-1] < 1e-5
        assert run.history.nc2[-1] < 1e-2
    table = normalization.data(config)
    np.testing.assert_allclose(
        table["value"], np.broadcast_to(table.predicted.values[None, :, None], (3, 4, 3)), rtol=1e-8
    )
    assert np.all(table.uneven_gap <= 1e-8 * table.uneven_value)
    rare = table.cosine.sel(group="rare").values
    np.testing.assert_allclose(rare[0], -1 / 3, atol=1e-6)
    assert np.all(np.diff(rare) > 0.05)
    normalization.main(config)
    assert "largest relative gap" in capsys.readouterr().out
    assert (tmp_path / "n.png").stat().st_size > 10_000


def test_rare_classes_merge_unless_the_classifier_is_forced(study, tmp_path, capsys):
    fixed_etf = study("fixed_etf")
    config = fixed_etf.Config(
        num_classes=4, dim=6, samples=4000, lambda_A=1e-2, lambda_H=2.5e-4, ratios=5, output=tmp_path / "f.png"
    )
    table = fixed_etf.data(config)
    assert np.all(table.gap <= 1e-8 * table["value"])
    np.testing.assert_allclose(table.cosine.sel(classifier="forced"), -1 / 3, atol=1e-6)
    # minority collapse iff n_B ≤ N² λ_A λ_H
    merged = table.cosine.sel(classifier="learned") > 1 - 1e-6
    assert list(merged.values) == list(table.merged.values)
    assert set(merged.values) == {True, False}
    fixed_etf.main(config)
    assert "rare cosine" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 10_000

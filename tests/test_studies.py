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

import dataclasses

import numpy as np
import pytest

import ufm
from ufm._core.tables import number

SMALL = {"samples": 512, "snapshots": 4}
PERCEPTRON, CONVOLUTIONAL = {"widths": (128, 128, 64)}, {"widths": (64,), "channels": (16, 32)}


def config_of(digits, epochs=(12, 12), batch=64, perceptron=None, convolutional=None, **changes):
    """A configuration with smaller networks; recipes keep their weight decay."""
    default = digits.Config().true, digits.Config().random
    recipes = [dataclasses.replace(r, epochs=e, batch=batch) for r, e in zip(default, epochs, strict=True)]
    shapes = ({"widths": (32, 16)} | (perceptron or {}), {"widths": (16,), "channels": (4,)} | (convolutional or {}))
    networks = [digits.Architecture(**shape) for shape in shapes]
    return digits.Config(
        **({"samples": 256, "snapshots": 5} | changes),
        perceptron=networks[0],
        convolutional=networks[1],
        true=recipes[0],
        random=recipes[1],
    )


def test_both_networks_collapse_with_both_kinds_of_labels(study):
    digits = study("digits")
    for seed in range(3):
        config = config_of(digits, (100, 200), 64, PERCEPTRON, CONVOLUTIONAL, **SMALL, seed=seed)
        for name, result in digits.data(config).items():
            first, last = (ufm.Metrics(*(value[index] for value in result.history.metrics)) for index in (0, -1))
            assert last.accuracy == 1.0, (name, seed)
            assert last.trace_ratio < first.trace_ratio / 30, (name, seed)
            assert last.nc1 < first.nc1 / 30, (name, seed)
            assert last.nc2 < 0.6 * first.nc2, (name, seed)
            assert last.nc3 < 0.4 * first.nc3, (name, seed)
            assert last.nc4 < 0.01, (name, seed)
            generalised = result.test_accuracy[-1] > 0.9
            assert generalised if "true" in name else result.test_accuracy[-1] < 0.25, (name, seed)


def test_files_hold_what_the_table_says(study, tmp_path, capsys):
    digits = study("digits")
    config = config_of(digits, output=tmp_path / "figure.png", features=tmp_path / "features.npz")
    digits.main(config)
    out = capsys.readouterr().out
    with np.load(config.features) as file:
        features = dict(file)
    measured = ufm.measure(**features)
    assert [features[name].shape for name in ("H", "labels", "A", "b")] == [(256, 16), (256,), (10, 16), (10,)]
    assert features["H"].dtype == np.float32
    row = next(line for line in out.splitlines() if "MLP, true labels, last" in line)
    for field in digits.SHOWN[1:]:
        assert number(float(getattr(measured, field))) in row.split(), field
    with np.load(config.output.with_suffix(".npz")) as file:
        assert {"command", "versions", "CNN, random labels/test_accuracy"} <= set(file)
        assert all(file[f"MLP, true labels/{field}"][-1] == value for field, value in measured._asdict().items())
        assert list(file["MLP, true labels/step"][[0, -1]]) == [0, 12]
    assert config.output.stat().st_size > 10_000


def test_same_seed_same_bits_and_looking_changes_nothing(study):
    digits = study("digits")
    often, seldom = (digits.data(config_of(digits, snapshots=count)) for count in (8, 3))
    other = digits.data(config_of(digits, seed=1))
    for name in often:
        assert np.array_equal(often[name].features["H"], seldom[name].features["H"])
        assert not np.array_equal(often[name].features["H"], other[name].features["H"])


@pytest.mark.parametrize("changes", [{"samples": 1797}, {"batch": 0}, {"samples": 40}])
def test_impossible_batches_are_refused(study, changes):
    with pytest.raises(ValueError, match=r"batch = .* and samples = .* are needed"):
        config_of(study("digits"), **changes)


def test_features_do_not_overwrite_the_data(study, tmp_path):
    with pytest.raises(ValueError, match=r"features = .*: where the data"):
        study("digits").Config(output=tmp_path / "x.png", features=tmp_path / "x.npz")

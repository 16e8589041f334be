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


def test_both_networks_collapse_with_both_kinds_of_labels(study, seeds):
    digits = study("digits")
    for seed in range(seeds):
        table = digits.data(config_of(digits, (100, 200), 64, PERCEPTRON, CONVOLUTIONAL, **SMALL, seed=seed))
        for name in table.network.values:
            seen = table.sel(network=name).dropna("step", subset=["loss"])
            first, last = seen.isel(step=0), seen.isel(step=-1)
            assert last.accuracy == 1.0, (name, seed)
            assert last.trace_ratio < first.trace_ratio / 30, (name, seed)
            assert last.nc1 < first.nc1 / 30, (name, seed)
            assert last.nc2 < 0.6 * first.nc2, (name, seed)
            assert last.nc3 < 0.4 * first.nc3, (name, seed)
            assert last.nc4 < 0.01, (name, seed)
            assert last.test_accuracy > 0.9 if "true" in str(name) else last.test_accuracy < 0.25, (name, seed)


@pytest.fixture(scope="module")
def table(study):
    """Of smaller networks, the perceptron's with more features than the other."""
    digits = study("digits")
    return digits.data(config_of(digits, (12, 9), convolutional={"widths": (8,)}))


def test_files_hold_what_the_table_says(study, table, written, tmp_path):
    digits = study("digits")
    out, arrays = written(digits, table, features=tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz") as file:
        features = dict(file)
    measured = ufm.measure(**features)
    assert [features[name].shape for name in ("H", "labels", "A", "b")] == [(256, 16), (256,), (10, 16), (10,)]
    assert features["H"].dtype == np.float32
    assert digits.features(table, "CNN, true labels")["H"].shape == (256, 8)
    row = next(line for line in out.splitlines() if "MLP, true labels, last" in line)
    for field in digits.SHOWN[1:]:
        assert number(float(getattr(measured, field))) in row.split(), field
    assert "H" not in arrays
    at = arrays["network"].tolist().index("MLP, true labels")
    assert all(arrays[field][at, -1] == value for field, value in measured._asdict().items())
    assert list(arrays["step"][[0, -1]]) == [0, 12]
    ends = np.isfinite(arrays["loss"][:, -1])
    assert dict(zip(arrays["network"].tolist(), ends.tolist(), strict=True)) == {
        name: "true" in name for name in arrays["network"].tolist()
    }


def test_same_seed_same_bits_and_looking_changes_nothing(study, table):
    digits = study("digits")
    words = {"epochs": (12, 9), "convolutional": {"widths": (8,)}}
    seldom, other = (digits.data(config_of(digits, **words, **more)) for more in ({"snapshots": 3}, {"seed": 1}))
    for name in table.network.values:
        bits, same, different = (digits.features(each, name)["H"] for each in (table, seldom, other))
        assert np.array_equal(bits, same)
        assert not np.array_equal(bits, different)


@pytest.mark.parametrize("changes", [{"samples": 1797}, {"batch": 0}, {"samples": 40}])
def test_impossible_batches_are_refused(study, changes):
    with pytest.raises(ValueError, match=r"batch = .* and samples = .* are needed"):
        config_of(study("digits"), **changes)


def test_features_do_not_overwrite_the_data(study, tmp_path):
    with pytest.raises(ValueError, match=r"features = .*: where the data"):
        study("digits").Config(output=tmp_path / "x.png", features=tmp_path / "x.npz")

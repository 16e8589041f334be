import numpy as np
import pytest

import ufm
from ufm._tables import number

SMALL = {"samples": 512, "widths": (128, 128, 64), "batch": 64, "epochs_true": 100, "epochs_random": 200}


def tiny(digits, **changes):
    small = {"samples": 256, "widths": (32, 16), "batch": 64, "epochs_true": 12, "epochs_random": 12, "snapshots": 5}
    return digits.Config(**(small | changes))


def test_both_kinds_of_labels_collapse(study):
    digits = study("digits")
    for seed in range(3):
        for name, result in digits.data(digits.Config(**SMALL, snapshots=4, seed=seed)).items():
            first, last = (ufm.Metrics(*(value[index] for value in result.history.metrics)) for index in (0, -1))
            assert last.accuracy == 1.0, (name, seed)
            assert last.trace_ratio < first.trace_ratio / 30, (name, seed)
            assert last.nc1 < first.nc1 / 30, (name, seed)
            assert last.nc2 < 0.6 * first.nc2, (name, seed)
            assert last.nc3 < 0.4 * first.nc3, (name, seed)
            assert last.nc4 < 0.01, (name, seed)
            generalised = result.test_accuracy[-1] > 0.9
            assert generalised if name == "true labels" else result.test_accuracy[-1] < 0.25, (name, seed)


def test_files_hold_what_the_table_says(study, tmp_path, capsys):
    digits = study("digits")
    config = tiny(digits, output=tmp_path / "figure.png", features=tmp_path / "features.npz")
    digits.main(config)
    out = capsys.readouterr().out
    with np.load(config.features) as file:
        features = dict(file)
    measured = ufm.measure(**features)
    assert [features[name].shape for name in ("H", "labels", "A", "b")] == [(256, 16), (256,), (10, 16), (10,)]
    assert features["H"].dtype == np.float32
    row = next(line for line in out.splitlines() if "true labels, last" in line)
    for field in digits.SHOWN[1:]:
        assert number(float(getattr(measured, field))) in row.split(), field
    with np.load(config.output.with_suffix(".npz")) as file:
        assert {"command", "versions", "random labels/test_accuracy"} <= set(file)
        assert all(file[f"true labels/{field}"][-1] == value for field, value in measured._asdict().items())
        assert list(file["true labels/step"])[:: len(file["true labels/step"]) - 1] == [0, 12]
    assert config.output.stat().st_size > 10_000


def test_same_seed_same_bits_and_looking_changes_nothing(study):
    digits = study("digits")
    often, seldom = (digits.data(tiny(digits, snapshots=count)) for count in (8, 3))
    other = digits.data(tiny(digits, seed=1))
    for name in often:
        assert np.array_equal(often[name].features["H"], seldom[name].features["H"])
        assert not np.array_equal(often[name].features["H"], other[name].features["H"])


def test_split_standardises_by_the_training_samples(study):
    X, labels, X_test, labels_test = study("digits").split(1024, seed=0)
    assert (len(X), len(labels), len(X_test), len(labels_test)) == (1024, 1024, 773, 773)
    assert set(labels) == set(range(10))
    constant = X.std(axis=0) == 0
    assert 0 < constant.sum() < 10
    assert np.all(X[:, constant] == 0)
    assert np.all(X_test[:, constant] == 0)
    np.testing.assert_allclose(X.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(X.std(axis=0)[~constant], 1.0, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"samples": 1797}, {"batch": 0}, {"samples": 100}])
def test_impossible_batches_are_refused(study, changes):
    with pytest.raises(ValueError, match=r"batch = .* and samples = .* are needed"):
        study("digits").Config(**changes)


def test_features_do_not_overwrite_the_data(study, tmp_path):
    with pytest.raises(ValueError, match=r"features = .*: where the data"):
        study("digits").Config(output=tmp_path / "x.png", features=tmp_path / "x.npz")

import pathlib
import re
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]

SHARED = "flows", "handwriting", "networks"  # by studies, and none itself


def assert_standardised(X, X_test):
    constant = X.std(axis=0) == 0
    assert 0 < constant.sum() < 10
    assert np.all(X[:, constant] == 0)
    assert np.all(X_test[:, constant] == 0)
    np.testing.assert_allclose(X.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(X.std(axis=0)[~constant], 1.0, rtol=1e-4)


def test_split_standardises_by_the_training_samples(study):
    X, labels, X_test, labels_test = study("handwriting").split(1024, seed=0)
    assert (len(X), len(labels), len(X_test), len(labels_test)) == (1024, 1024, 773, 773)
    assert set(labels) == set(range(10))
    assert_standardised(X, X_test)


def test_split_by_class_has_the_counts_asked_for(study):
    X, labels, X_test, labels_test = study("handwriting").split_by_class((100, 50, 120, 0), seed=0)
    assert list(np.bincount(labels)) == [100, 50, 120]
    assert set(labels_test) == {0, 1, 2, 3}
    assert len(np.unique(np.concatenate([X, X_test]), axis=0)) == len(X) + len(X_test)  # no sample in both
    assert_standardised(X, X_test)


@pytest.mark.parametrize("counts", [(10, -1), (10, 1000)])
def test_counts_that_are_not_there_are_refused(study, counts):
    with pytest.raises(ValueError, match=rf"counts\[1\] = {counts[1]}: from 0 to \d+ samples of digit 1"):
        study("handwriting").split_by_class(counts, seed=0)


def test_without_scikit_learn_every_study_says_what_to_install(loaded_again, monkeypatch):
    for name in ["sklearn", "sklearn.datasets", *(name for name in sys.modules if name.startswith("sklearn."))]:
        monkeypatch.setitem(sys.modules, name, None)
    for shared in SHARED:
        monkeypatch.delitem(sys.modules, shared, raising=False)
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (none|`studies`) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = dict(rows)
    assert set(listed) == {file.stem for file in (ROOT / "studies").glob("*.py")} - set(SHARED)
    for name, extra in listed.items():
        if extra == "`studies`":
            with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[studies\]'"):
                loaded_again(name)
        else:
            loaded_again(name)

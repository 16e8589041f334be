import io
import json
import pathlib
import zipfile

import numpy as np
import pytest
from zoo import problem

import ufm
from ufm._core import archive
from ufm._core.provenance import as_json

VALUE = {"status": ufm.Status.CONVERGED, "problem": problem(), "x": np.arange(40.0)}


@pytest.fixture
def file(tmp_path):
    archive.save(tmp_path / "value", VALUE)
    return tmp_path / "value"


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def tree(value):
    return npz(__tree__=np.asarray(json.dumps(value)))


FOREIGN = {
    "empty": b"",
    "text": b"not an archive",
    "half a zip": b"PK\x03\x04 broken",
    "an array": npy(),
    "a zip of something else": zipped(x=b"text"),
    "another npz": npz(x=1),
    "no JSON": npz(__tree__=np.asarray("{")),
    "numbers": npz(__tree__=np.ones(3)),
    "pickled": npz(__tree__=np.asarray([None], object)),
    "another table": tree({"name": 3}),
    "an absent array": tree({"array": "array0"}),
    "an absent field": tree({"class": "Problem", "fields": {"size": 3}}),
    "an absent member": tree({"class": "Status", "member": "LOST"}),
    "an illegal value": tree({"class": "Problem", "fields": {"num_classes": -1, "dim": 3}}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_another_kind_are_named(tmp_path, kind):
    (tmp_path / "f").write_bytes(FOREIGN[kind])
    with pytest.raises(ValueError, match=rf"path = '{tmp_path}/f': a whole file written by save is needed"):
        ufm.load(tmp_path / "f")


@pytest.mark.parametrize("path", [None, 3, True, [], "", 1.5])
def test_paths_are_checked(path):
    with pytest.raises(ValueError, match=r"path = .*: a path is needed"):
        ufm.load(path)
    with pytest.raises(ValueError, match=r"path = .*: a path is needed"):
        archive.save(path, VALUE)


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=rf"path = '{tmp_path}': a folder; a file written by save is needed"):
        ufm.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"path = '{tmp_path}/absent': no such file"):
        ufm.load(tmp_path / "absent")


def test_what_cannot_be_written_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "f"):
        with pytest.raises(OSError, match=rf"path = '{path}': ((?!\.\w+\.\w{{8}}).)*$"):
            archive.save(path, VALUE)
    assert not list(tmp_path.iterdir())


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    archive.save("~/value", VALUE)
    assert [path.name for path in tmp_path.iterdir()] == ["value"]
    assert ufm.load(pathlib.Path("~/value"))["status"] == VALUE["status"]


def test_a_cut_file_is_refused(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"path = '{file}': a whole file"):
            ufm.load(file)


def test_a_flipped_bit_never_changes_what_is_loaded(file):
    whole, refusals = file.read_bytes(), []
    for byte in range(0, len(whole), 3):
        content = bytearray(whole)
        content[byte] ^= 1 << byte % 8
        file.write_bytes(content)
        try:
            back = ufm.load(file)
        except ValueError as error:
            refusals.append(str(error))
            continue
        assert repr(back) == repr(VALUE)  # where zip keeps the time, or something twice
    assert len(refusals) > len(whole) / 6
    assert all(text.startswith(f"path = '{file}': a whole file") for text in refusals)


def test_a_saved_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    archive.save(tmp_path / "value", VALUE)
    assert (tmp_path / "value").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 1.0]])
def test_weights_that_are_ones_are_written_as_none_as_earlier_versions_wrote_them(weights):
    # a store that one of those began holds the same sweep
    own = ufm.Problem(num_classes=3, dim=2, per_class=4, class_weights=weights)
    told = as_json(own)["fields"]
    assert told["class_weights"] == (weights and {"values": weights})

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray
import zarr

from ufm._core.lock import hold
from ufm.sweeps import store
from ufm.sweeps.store import Store

PARTITION = np.array([[0, 1], [2, 3], [4, -1]])
ROWS = np.arange(15.0).reshape(5, 3)


class Plan:
    """Of five points with three numbers each."""

    width = 3

    def __init__(self, of="these", jax="1"):
        self.of, self.jax = of, jax

    def identity(self, packages):
        return {"of": self.of}

    def maker(self):
        return {"versions": {"jax": self.jax}, "command": "here"}

    def dataset(self, values, makers):
        return xarray.Dataset({"x": (("point", "number"), values.copy())}, attrs={"by": json.dumps(makers)})


def opened(path, *words, partition=PARTITION):
    return Store(path, Plan(*words), partition)


def fill(kept):
    """Do the batches that are not there; which."""
    with kept:
        missing = np.flatnonzero(~kept.done).tolist()
        for batch in missing:
            kept.put(batch, ROWS[PARTITION[batch][PARTITION[batch] >= 0]])
    np.testing.assert_array_equal(kept.values, ROWS)
    return missing


@pytest.fixture
def path(tmp_path):
    fill(opened(tmp_path / "s.zarr"))
    return tmp_path / "s.zarr"


def deleted(file):
    file.unlink()


def emptied(file):
    file.write_bytes(b"")


def halved(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def zeroed(file):
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("harm", [deleted, emptied, halved, flipped, zeroed])
def test_a_damaged_batch_is_said_and_done_again(path, harm):
    harm(path / "batches/table/1.0.0")
    with pytest.warns(UserWarning, match=rf"{path}': 1 of 3 batches were missing or damaged"):
        kept = opened(path)
    assert fill(kept) == [1]
    assert fill(opened(path)) == []


@pytest.mark.parametrize("harm", [emptied, halved, flipped, zeroed])
def test_a_damaged_mark_of_a_batch_is_said_and_the_batch_done_again(path, harm):
    harm(path / "batches/done/2")
    with pytest.warns(UserWarning, match="1 of 3 batches"):
        kept = opened(path)
    assert fill(kept) == [2]


def test_each_bit_of_a_batch_is_guarded(path):
    file = path / "batches/table/0.0.0"
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(harmed)
        assert store.Files(path).sound("batches/table/0.0.0") is None


@pytest.mark.parametrize("harm", [deleted, emptied, halved])
@pytest.mark.parametrize(
    "name",
    ["batches/table/.zarray", "batches/done/.zarray", "batches/.zgroup", "batches/points/0.0", "x/0.0", "x/.zarray"],
)
def test_what_follows_from_the_batches_is_said_and_written_anew(path, name, harm):
    before = (path / name).read_bytes()
    harm(path / name)
    with pytest.warns(UserWarning, match=rf"{path}': 1 files were missing or damaged.*: {name}"):
        assert fill(opened(path)) == []
    assert (path / name).read_bytes() == before
    xarray.testing.assert_equal(xarray.open_zarr(path), Plan().dataset(ROWS, []))


def test_zarr_checks_the_same_sums(path):
    for name in ("x/0.0", "batches/table/0.0.0"):
        flipped(path / name)
    for group, variable in ((path, "x"), (path / "batches", "table")):
        with pytest.raises(RuntimeError, match="checksum do not match"):
            zarr.open_group(group, mode="r")[variable][:]


@pytest.mark.parametrize("harm", [deleted, emptied, halved])
def test_a_store_that_does_not_say_what_it_is_of_is_refused_and_kept(path, harm):
    harm(path / "batches/.zattrs")
    with pytest.raises(ValueError, match=rf"{path}': batches/.zattrs .*what sweep its batches are"):
        opened(path)
    assert (path / "batches/table/2.0.0").exists()


@pytest.mark.parametrize("content", ["[]", "null", '{"identity": 3}', '{"identity": "[]"}', '{"identity": "{}"}'])
def test_so_is_one_with_another_record(path, content):
    (path / "batches/.zattrs").write_text(content)
    with pytest.raises(ValueError, match=r"batches/.zattrs does not say of what sweep its batches are"):
        opened(path)


def test_other_layouts_sweeps_and_partitions_are_refused(path):
    with pytest.raises(ValueError, match='of is "these" there and "others" here'):
        opened(path, "others")
    with pytest.raises(ValueError, match="partition is"):
        opened(path, partition=PARTITION[::-1])
    old = json.dumps({"identity": json.dumps({"of": "these", "versions": {"jax": "1"}, "layout": 2})})
    (path / "batches/.zattrs").write_text(old)
    with pytest.raises(ValueError, match="layout is 2 there and 3 here; name another"):
        opened(path)


def test_the_lock_may_be_deleted(path):
    for name in (".lock", ".holder"):
        (path / "batches/done" / name).unlink()
    assert fill(opened(path)) == []


@pytest.mark.parametrize("kept", ["batches/points/.zarray", "batches/done/.lock"])
def test_a_creation_cut_short_is_made_again(tmp_path, kept):
    path = tmp_path / "s.zarr"
    with opened(path):
        pass
    (path / "batches/.zattrs").unlink()
    (path / ".zmetadata").unlink()
    for name in ("x/.zarray", "x/.zattrs", "x/0.0", ".zattrs"):
        (path / name).unlink()
    for file in (path / "batches").glob("*/*"):
        if file != path / kept:
            file.unlink()
    (path / "batches/done/.zattrs.ufm-partial").write_text("half")
    assert fill(opened(path)) == [0, 1, 2]
    assert not list(path.rglob("*.ufm-partial"))


def test_files_of_others_are_kept(path):
    mine = [path / "notes.partial", path / "batches/table/1.0.0.partial", path / "batches/notes.txt"]
    for file in mine:
        file.write_text("mine")
    assert fill(opened(path)) == []
    assert [file.read_text() for file in mine] == ["mine"] * 3


def read_only(monkeypatch, number):
    def refuse(*arguments, **words):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    for name in ("write_bytes", "write_text", "unlink", "replace"):
        monkeypatch.setattr(f"pathlib.Path.{name}", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOLCK])
def test_a_finished_store_is_read_where_it_cannot_be_written(path, monkeypatch, number):
    read_only(monkeypatch, number)
    assert fill(opened(path)) == []


def test_an_unfinished_one_is_not(path, monkeypatch):
    (path / "batches/done/1").unlink()
    with monkeypatch.context() as patch:
        read_only(patch, errno.EACCES)
        with pytest.raises(PermissionError, match=rf"{path}': Permission denied; finished batches are kept"):
            opened(path)
    assert fill(opened(path)) == [1]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_named(tmp_path, monkeypatch, number):
    read_only(monkeypatch, number)
    with pytest.raises(OSError, match=rf"{tmp_path}/s': its file system cannot lock files") as raised:
        opened(tmp_path / "s")
    assert raised.value.errno == number


def test_a_store_is_opened_once_at_a_time(tmp_path):
    with opened(tmp_path / "s") as kept, pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on"):
        opened(tmp_path / "s")
    assert fill(opened(tmp_path / "s")) == [0, 1, 2]
    assert not kept.done.any()


def test_a_refused_store_is_not_left_locked(path):
    with pytest.raises(ValueError, match="holds another sweep"):
        opened(path, "others")
    flipped(path / "batches/table/1.0.0")
    with pytest.raises(UserWarning, match="missing or damaged"):  # warnings are errors here
        opened(path)
    hold(path / "batches/done").release()


def test_makers_of_what_is_there_are_recorded(tmp_path):
    path = tmp_path / "s"
    with opened(path) as first:
        first.put(0, ROWS[:2])
    with Store(path, Plan(jax="2"), PARTITION, "any"):
        pass
    with opened(path) as again:  # the second made nothing
        again.put(1, ROWS[2:4])
    with pytest.raises(ValueError, match=r'versions.jax is "1" there and "2" here; .*versions=.any.'):
        opened(path, "these", "2")
    with Store(path, Plan(jax="2"), PARTITION, "any") as last:
        last.put(2, ROWS[4:])
    assert [maker["versions"]["jax"] for maker in last.makers] == ["1", "2"]
    with xarray.open_zarr(path) as table:
        assert json.loads(table.attrs["by"]) == last.makers
    with pytest.raises(ValueError, match="other versions made what it holds"):
        opened(path)


def test_an_unchanged_store_is_left_as_it_is(path):
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.name != ".holder" and file.is_file()}
    fill(opened(path))
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_ufm_is_imported_without_unix():
    code = (
        "import sys, os, jax; sys.modules['fcntl'] = None; del os.uname; import ufm, ufm.sweeps.store; print('there')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "there\n"

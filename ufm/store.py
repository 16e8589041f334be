"""A sweep on disk: a zarr store that xarray opens, written a batch at a time by one process.

The group `batches` has one chunk of rows a batch in `table`, and in `done` which batches are there, written after
them; a batch cut short is done again. The labelled variables beside it are written from these from time to time.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

FIRST_PUBLISHED = 1.0  # seconds, so that a sweep of less writes its variables once
PUBLISHED_EVERY = 30.0
LAYOUT = 2  # of the files below
COMPLETE = "batches/.zattrs"  # written last of the group
LABELLED = ".zmetadata"  # written last of the labelled variables


@runtime_checkable
class Plan(Protocol):
    """What is stored."""

    @property
    def width(self) -> int:
        """Numbers of a point."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """JSON of what calls that share a store may not change."""
        ...

    def dataset(self, values: np.ndarray) -> Any:
        """(points, width) values labelled, an xarray.Dataset."""
        ...


class Store:
    """An open store, locked against other processes until it is closed, or its process killed.

    Args:
        path: a folder, new or written by the same sweep.
        plan: of the sweep.
        partition: (batches, points of the largest) indices of points, −1 where a batch has fewer.

    Raises:
        ValueError: where the folder is something else, or holds another sweep; the message says what differs.
        OSError: where another process has the store open, or it cannot be written.
    """

    def __init__(self, path: Any, plan: Plan, partition: np.ndarray):
        self.path = pathlib.Path(path)
        self._plan, self._partition = plan, partition
        self._due, self._published = time.monotonic() + FIRST_PUBLISHED, False
        with self._clear_errors():
            self._lock = self._acquire()
            try:
                self._open(json.loads(json.dumps({**plan.identity(), "layout": LAYOUT})))
            except BaseException:
                os.close(self._lock)
                raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            with contextlib.suppress(OSError) if error is not None else self._clear_errors():
                if self._published or not isinstance(error, KeyboardInterrupt):  # at first it imports for seconds
                    self._publish()
        finally:
            os.close(self._lock)

    def put(self, batch: int, rows: np.ndarray) -> None:
        """Keep the rows of a batch, and then that it is done."""
        padded = np.full((self._partition.shape[1], self._plan.width), np.nan)
        padded[: len(rows)] = rows
        with self._clear_errors():
            # chunks as zarr has them, which takes five times as long to write one
            self._write({f"batches/table/{batch}.0.0": padded.astype("<f8").tobytes()})
            self._keep(batch, padded)
            try:
                if time.monotonic() > self._due:
                    self._publish()
            finally:  # not before, so that xarray reads a store that has a batch
                self._write({f"batches/done/{batch}": b"\x01"})

    def _keep(self, batch, padded):
        points = self._partition[batch]
        self.values[points[points >= 0]] = padded[points >= 0]
        self.done[batch] = True

    def _acquire(self) -> int:
        """Lock the store: a file inside an array, where neither zarr nor xarray looks."""
        file = self.path / "batches" / "done" / ".lock"
        if self.path.exists() and not file.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"store = {str(self.path)!r}: a new folder, or one written by ufm.sweep, is needed")
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 100).decode() or "another process"
            os.close(handle)
            raise BlockingIOError(
                f"store = {str(self.path)!r}: in use by {owner}; wait for it, or name another store"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        return handle

    def _open(self, identity):
        import zarr

        for left_over in self.path.rglob("*.partial"):
            left_over.unlink()
        self.values = np.full((int((self._partition >= 0).sum()), self._plan.width), np.nan)
        if not (self.path / COMPLETE).exists():
            self._create(identity)
        group = zarr.open_group(self.path / "batches", mode="r+", zarr_format=2)
        _same(str(self.path), json.loads(str(group.attrs["identity"])), identity)
        table: Any = group["table"]
        done: Any = group["done"]
        self.done = np.array(done[:])
        for batch in np.flatnonzero(self.done):
            self._keep(batch, table[batch])

    def _create(self, identity):
        """Empty arrays, and last the attributes that say they are complete."""
        import zarr
        from zarr.storage import MemoryStore

        for file in (self.path / "batches").glob("*/*"):  # of a creation cut short
            if file.name != ".lock":
                file.unlink()
        (self.path / LABELLED).unlink(missing_ok=True)
        files: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(files), path="batches", zarr_format=2)
        (batches, rows), width = self._partition.shape, self._plan.width
        plain: dict[str, Any] = {"compressors": None}
        group.create_array("points", data=self._partition, chunks=(batches, rows), **plain)
        shape, chunks = (batches, rows, width), (1, rows, width)
        group.create_array("table", shape=shape, chunks=chunks, dtype="float64", fill_value=np.nan, **plain)
        group.create_array("done", shape=(batches,), chunks=(1,), dtype="bool", fill_value=False, **plain)
        group.attrs["identity"] = json.dumps(identity)
        self._write(_bytes(files), COMPLETE)

    def _write(self, files, last=""):
        """Files by name, bytes each, whole or not at all; one of them last."""
        for name in sorted(files, key=last.__eq__):
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.partial")
            partial.write_bytes(files[name])
            partial.replace(file)

    def _publish(self):
        """Make the labelled variables, and last their metadata; where they are there, write their values."""
        import zarr
        from zarr.storage import MemoryStore

        table = self._plan.dataset(self.values)
        if (self.path / LABELLED).exists():
            group: Any = zarr.open_group(self.path, mode="r+", zarr_format=2)
            for name, variable in table.data_vars.items():
                array = group[name]
                array[...] = variable.values.astype(array.dtype)
        else:
            files: dict[str, Any] = {}
            table.to_zarr(MemoryStore(files), zarr_format=2, consolidated=True)
            self._write(_bytes(files), LABELLED)
        self._due, self._published = time.monotonic() + PUBLISHED_EVERY, True

    @contextlib.contextmanager
    def _clear_errors(self):
        """Say which store could not be written, and that nothing finished is lost."""
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            reason = f"{error.strerror or error}; finished batches are kept, and the same call goes on from them"
            raise type(error)(error.errno, f"store = {str(self.path)!r}: {reason}") from error


def _bytes(files: Mapping[str, Any]) -> dict[str, bytes]:
    """What zarr wrote in memory, where it takes less time than on a disk."""
    return {name: buffer.to_bytes() for name, buffer in files.items()}


class Memory:
    """The same without a disk."""

    def __init__(self, partition: np.ndarray, width: int):
        self.values = np.full((int((partition >= 0).sum()), width), np.nan)
        self.done = np.zeros(len(partition), bool)
        self._partition = partition

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def put(self, batch: int, rows: np.ndarray) -> None:
        """Keep the rows of a batch."""
        points = self._partition[batch]
        self.values[points[points >= 0]] = rows
        self.done[batch] = True


def _same(path: str, there: Any, here: Any) -> None:
    """Raise a ValueError that lists what differs."""
    old, new = dict(_leaves(there)), dict(_leaves(here))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        shown = "; ".join(f"{n} is {_short(old.get(n))} there and {_short(new.get(n))} here" for n in differing[:8])
        raise ValueError(f"store = {path!r}: holds another sweep: {shown}; name another store, or remove this one")


def _leaves(tree: Any, name: str = ""):
    """Dotted names and values of a JSON tree of tables."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
    else:
        yield name, tree


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

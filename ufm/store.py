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
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

PUBLISHED_EVERY = 30.0  # seconds


class Store:
    """An open store, locked against other processes until it is closed, or its process killed.

    Args:
        path: a folder, new or written by the same sweep.
        identity: JSON of what may not change between the calls that share a store.
        partition: (batches, points of the largest) indices of points, −1 where a batch has fewer.
        width: numbers of a point.
        publish: writes the labelled variables, given (points, width) values and whether they are new.

    Raises:
        ValueError: where the folder is something else, or holds another sweep; the message says what differs.
        OSError: where another process has the store open, or it cannot be written.
    """

    def __init__(
        self,
        path: Any,
        identity: Mapping[str, Any],
        partition: np.ndarray,
        width: int,
        publish: Callable[[pathlib.Path, np.ndarray, bool], None],
    ):
        self.path = pathlib.Path(path)
        self._publish, self._partition = publish, partition
        self._published = time.monotonic()
        with self._clear_errors():
            self._lock = self._acquire()
            try:
                self._open(json.loads(json.dumps(identity)), width)
            except BaseException:
                os.close(self._lock)
                raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            with contextlib.suppress(OSError) if error is not None else self._clear_errors():
                self._publish(self.path, self.values, False)
        finally:
            os.close(self._lock)

    def put(self, batch: int, rows: np.ndarray) -> None:
        """Keep the rows of a batch, and then that it is done."""
        padded = np.full(self._table.shape[1:], np.nan)
        padded[: len(rows)] = rows
        with self._clear_errors():
            self._table[batch] = padded
            self._done[batch] = True
            self._keep(batch, padded)
            if time.monotonic() - self._published > PUBLISHED_EVERY:
                self._publish(self.path, self.values, False)
                self._published = time.monotonic()

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

    def _open(self, identity, width):
        import zarr

        for left_over in self.path.rglob("*.partial"):
            left_over.unlink()
        self.values = np.full((int((self._partition >= 0).sum()), width), np.nan)
        root = zarr.open_group(self.path, mode="a", zarr_format=2, use_consolidated=False)
        group = root.require_group("batches")
        there = group.attrs.get("identity")
        if there is None:
            self._create(group, identity, width)
        else:
            _same(str(self.path), json.loads(str(there)), identity)
        self._table: Any = root["batches/table"]
        self._done: Any = root["batches/done"]
        self.done = np.array(self._done[:])
        for batch in np.flatnonzero(self.done):
            self._keep(batch, self._table[batch])

    def _create(self, group, identity, width):
        """Arrays first, and last the attribute that says they are complete."""
        batches, rows = self._partition.shape
        for part in ("done", "table", "points"):
            for file in (self.path / "batches" / part).glob("*"):  # of a creation cut short
                if file.name != ".lock":
                    file.unlink()
        one, chunk = (batches, rows), (1, rows)
        group.create_array("points", shape=one, chunks=chunk, dtype="int64", fill_value=-1)[:] = self._partition
        group.create_array("table", shape=(*one, width), chunks=(*chunk, width), dtype="float64", fill_value=np.nan)
        group.create_array("done", shape=(batches,), chunks=(1,), dtype="bool", fill_value=False)
        self._publish(self.path, self.values, True)
        group.attrs["identity"] = json.dumps(identity)

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

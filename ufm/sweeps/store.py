"""A sweep on disk: a zarr store that xarray opens, written a batch at a time by one process.

The group `batches` has one chunk of rows a batch in `table`, and in `done` which batches are there and by whom, written
after them; a batch cut short is done again. The labelled variables beside it are written from these from time to time.
Every chunk carries a checksum, with which zarr reads it too; what is missing or damaged is said and done again.
"""

import contextlib
import functools
import json
import sys
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ufm._core import checks
from ufm._core.lock import hold
from ufm.sweeps.files import Files, checked, chunk, contents

FIRST_PUBLISHED = 1.0  # seconds, so that a sweep of less writes its variables once
PUBLISHED_EVERY = 30.0
LAYOUT = 3  # of the files below
COMPLETE = "batches/.zattrs"  # written last of the group
LABELLED = ".zmetadata"  # written last of the labelled variables
LOCKED = "batches/done"  # inside an array, where neither zarr nor xarray looks for other files
REMEDY = "put that file back, name another store, or remove this one"


@runtime_checkable
class Plan(Protocol):
    """What is stored."""

    @property
    def width(self) -> int:
        """Numbers of a point."""
        ...

    def identity(self, packages: dict[str, str]) -> Mapping[str, Any]:
        """JSON of what calls that share a store may not change; versions of what it refers to go into `packages`."""
        ...

    def maker(self) -> Mapping[str, Any]:
        """JSON of what computes here: its `versions` by name, and more."""
        ...

    def dataset(self, values: np.ndarray, makers: Sequence[Mapping[str, Any]]) -> Any:
        """(points, width) values labelled, an xarray.Dataset, and who made them."""
        ...


class Store:
    """An open store, locked against other processes until it is closed, or its process killed.

    A finished one is read without the lock where this cannot be had.

    Args:
        path: a folder, new or written by the same sweep.
        plan: of the sweep.
        partition: (batches, points of the largest) indices of points, −1 where a batch has fewer.
        versions: whether batches made by other versions of libraries are gone on from ("any") or refused ("same").

    Raises:
        ValueError: where the folder is something else, holds another sweep, or does not say which; the message says
            what differs.
        OSError: where another process has the store open, or it cannot be written.

    Warns:
        UserWarning: where batches or files were missing or damaged.
    """

    def __init__(self, path: Any, plan: Plan, partition: np.ndarray, versions: str = "same"):
        self.path = checks.path("store", path)
        self._files = Files(self.path)
        self._plan, self._partition = plan, partition
        self._due = time.monotonic() + FIRST_PUBLISHED
        self._identity, self._maker = self._described()
        with self._clear_errors(), contextlib.ExitStack() as stack:
            self._check_place()
            refusal = self._lock(stack)
            if COMPLETE not in self._files:
                if refusal:
                    raise refusal
                self._create()
            self._all_makers = self._checked_record()
            damaged = self._read()
            if versions == "same":
                self._check_versions()
            if damaged:
                number = f"{len(damaged)} of {len(self.done)} batches"
                self._warn(f"{number} were missing or damaged, and are to be done again", 3)
            if refusal and not self.done.all():
                raise refusal
            self._writable = refusal is None
            if self._writable:
                self._prepare(damaged)
            self._held = stack.pop_all()

    @property
    def done(self) -> np.ndarray:
        """Which batches are there."""
        return self._by > 0

    @property
    def makers(self) -> list[Any]:
        """Who made what is there."""
        return [self._all_makers[number - 1] for number in np.unique(self._by[self.done])]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        with self._held:
            # an interrupt does not wait for the import of xarray, which takes seconds
            if self._writable and ("xarray" in sys.modules or not isinstance(error, KeyboardInterrupt)):
                with contextlib.suppress(OSError) if error is not None else self._clear_errors():
                    self._publish()

    def put(self, batch: int, rows: np.ndarray) -> None:
        """Keep the rows of a batch, and then that it is done."""
        padded = np.full((self._partition.shape[1], self._plan.width), np.nan)
        padded[: len(rows)] = rows
        with self._clear_errors():
            self._files.write({_table(batch): chunk(padded.astype("<f8"))})
            self._keep(batch, padded, self._number)
            try:
                if time.monotonic() > self._due:
                    self._publish()
            finally:  # not before, so that xarray reads a store that has a batch
                self._files.write({_done(batch): chunk(np.array([self._number], "<u2"))})

    def _keep(self, batch, padded, number):
        points = self._partition[batch]
        self.values[points[points >= 0]] = padded[points >= 0]
        self._by[batch] = number

    def _check_place(self):
        """Refuse a folder of something else, and one that has batches but no longer says of what."""
        if COMPLETE in self._files or not self.path.exists():
            return
        files = self._files.names("*", "batches/*", "batches/*/*")
        if any(file.startswith(("batches/table/", "batches/done/")) and file[-1].isdigit() for file in files):
            raise ValueError(f"{self}: {COMPLETE} is missing, which says of what sweep its batches are; {REMEDY}")
        created = {*self._skeleton, f"{LOCKED}/.lock", f"{LOCKED}/.holder"}
        if not self.path.is_dir() or not files <= created:
            raise ValueError(f"{self}: a new folder, or one written by ufm.sweep, is needed")

    def _lock(self, stack) -> OSError | None:
        """Have the lock until the stack is closed, or why it cannot be had."""
        try:
            stack.callback(hold(self.path / LOCKED).release)
        except OSError as error:
            return error
        return None

    def _checked_record(self) -> list[Any]:
        """Who has written here, where it is for the sweep of this call."""
        try:
            attributes = json.loads((self.path / COMPLETE).read_bytes())
            there = json.loads(attributes["identity"])
            layout = there["layout"]
            makers = [
                {**maker, "versions": dict(maker["versions"])} for maker in json.loads(attributes.get("makers", "[]"))
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self}: {COMPLETE} does not say of what sweep its batches are; {REMEDY}") from error
        other, remedy = f"{self}: holds another sweep", "name another store, or remove this one"
        _same(other, {"layout": layout}, {"layout": LAYOUT}, remedy)
        _same(other, there, self._identity, remedy)
        return makers

    def _check_versions(self):
        """Refuse batches that other versions made."""
        remedy = "install those, name another store, or go on from there with versions='any'"
        for maker in self.makers:
            there, here = ({"versions": by["versions"]} for by in (maker, self._maker))
            _same(f"{self}: other versions made what it holds", there, here, remedy)

    def _described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What sweep this is, and who computes it here."""
        packages: dict[str, str] = {}
        parts = zlib.crc32(self._partition.astype("<i8").tobytes())
        identity = {**self._plan.identity(packages), "layout": LAYOUT, "partition": parts}
        maker = dict(self._plan.maker())
        maker["versions"] = {**packages, **maker["versions"]}
        return json.loads(json.dumps(identity)), json.loads(json.dumps(maker))

    def _read(self) -> list[int]:
        """Take the batches that are there; which are missing or damaged although they were done."""
        self.values = np.full((int((self._partition >= 0).sum()), self._plan.width), np.nan)
        self._by = np.zeros(len(self._partition), int)
        shape = (self._partition.shape[1], self._plan.width)
        damaged = []
        for batch in range(len(self._partition)):
            if _done(batch) not in self._files:
                continue
            number = self._files.numbers(_done(batch), "<u2", (1,))
            rows = self._files.numbers(_table(batch), "<f8", shape)
            if number is None or rows is None or not 0 < number[0] <= len(self._all_makers):
                damaged.append(batch)
            else:
                self._keep(batch, rows, int(number[0]))
        return damaged

    def _prepare(self, damaged):
        """Make a store that others left one that this process goes on with."""
        self._files.clear()
        for batch in damaged:
            (self.path / _done(batch)).unlink()
        self._published = LABELLED in self._files
        self._mend(self._skeleton)
        makers, maker = self._all_makers, self._maker
        if maker not in makers and not self.done.all():
            makers.append(maker)
            self._files.write(self._attributes(makers))
        self._number = makers.index(maker) + 1 if maker in makers else 0

    def _create(self):
        """Empty arrays, and last the attributes that say they are complete."""
        self._files.write(self._skeleton)
        self._files.write(self._attributes([]))

    def _attributes(self, makers) -> dict[str, bytes]:
        attributes = {"identity": json.dumps(self._identity), "makers": json.dumps(makers)}
        return {COMPLETE: json.dumps(attributes).encode()}

    @functools.cached_property
    def _skeleton(self) -> dict[str, bytes]:
        """Files of a group without batches, but for its attributes."""
        import zarr
        from zarr.storage import MemoryStore

        files: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(files), path="batches", zarr_format=2)
        (batches, rows), width = self._partition.shape, self._plan.width
        group.create_array("points", data=self._partition, chunks=(batches, rows), **checked())
        shape, chunks = (batches, rows, width), (1, rows, width)
        group.create_array("table", shape=shape, chunks=chunks, dtype="float64", fill_value=np.nan, **checked())
        group.create_array("done", shape=(batches,), chunks=(1,), dtype="uint16", fill_value=0, **checked())
        return {name: content for name, content in contents(files).items() if name not in (COMPLETE, ".zattrs")}

    def _publish(self):
        """Write the labelled variables, and last their metadata."""
        from zarr.storage import MemoryStore

        table = self._plan.dataset(self.values, self.makers)
        encoding = {name: checked() for name in table.variables}
        files: dict[str, Any] = {}
        whole: dict[str, Any] = {"zarr_format": 2, "consolidated": True, "write_empty_chunks": True}
        table.to_zarr(MemoryStore(files), encoding=encoding, **whole)
        self._mend(contents(files), LABELLED, self._published)
        self._published = True
        self._due = time.monotonic() + PUBLISHED_EVERY

    def _mend(self, files, last="", were_there=True):
        """Write the files that are not as they should be, and say which of those that were there could not be read."""
        damaged = self._files.mend(files, last)
        if damaged and were_there:
            shown = ", ".join(damaged[:3] + ["..."] * (len(damaged) > 3))
            self._warn(f"{len(damaged)} files were missing or damaged, and have been written anew: {shown}", 5)

    def _warn(self, text, stacklevel):
        warnings.warn(f"{self}: {text}", stacklevel=stacklevel + 1)

    def __str__(self):
        return f"store = {str(self.path)!r}"

    @contextlib.contextmanager
    def _clear_errors(self):
        """Say which store could not be written, and that nothing finished is lost."""
        try:
            yield
        except BlockingIOError as error:
            raise BlockingIOError(f"{self}: {error.strerror}; wait for it, or name another store") from None
        except OSError as error:
            reason = f"{error.strerror or error}; finished batches are kept, and the same call goes on from them"
            raise type(error)(error.errno, f"{self}: {reason}") from error


def _table(batch: int) -> str:
    return f"batches/table/{batch}.0.0"


def _done(batch: int) -> str:
    return f"batches/done/{batch}"


class Memory:
    """The same without a disk."""

    def __init__(self, plan: Plan, partition: np.ndarray):
        self.values = np.full((int((partition >= 0).sum()), plan.width), np.nan)
        self.done = np.zeros(len(partition), bool)
        self.makers = [plan.maker()]
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


def _same(what: str, there: Any, here: Any, remedy: str) -> None:
    """Raise a ValueError that lists what differs."""
    old, new = dict(_leaves(there)), dict(_leaves(here))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        shown = "; ".join(f"{n} is {_short(old.get(n))} there and {_short(new.get(n))} here" for n in differing[:8])
        raise ValueError(f"{what}: {shown}; {remedy}")


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

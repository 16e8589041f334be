"""A folder of zarr's files, format 2: written whole or not at all, and read with their checksums."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

PARTIAL = "{}.ufm-partial"  # what a file is called while it is written


class Files:
    """Files by name, metadata as JSON and chunks in the layout of zarr's CRC32 codec."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).exists()

    def write(self, files: Mapping[str, bytes], last: str = "") -> None:
        """Put files in the place of those that are there, one of them last."""
        for name in sorted(files, key=last.__eq__):
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(PARTIAL.format(file.name))
            partial.write_bytes(files[name])
            partial.replace(file)

    def mend(self, files: Mapping[str, bytes], last: str = "") -> list[str]:
        """Write those that are not there as they should be; which of them were missing or damaged."""
        changed = {name: content for name, content in files.items() if not self._holds(name, content)}
        damaged = [name for name in changed if self.sound(name) is None]
        self.write(changed, last)
        return damaged

    def sound(self, name: str) -> Any:
        """What a file holds, JSON or the bytes of a chunk; None where it is missing or damaged."""
        from numcodecs import CRC32

        try:
            content = (self.folder / name).read_bytes()
            return json.loads(content) if pathlib.Path(name).name.startswith(".z") else CRC32().decode(content)
        except (FileNotFoundError, ValueError, RuntimeError):
            return None

    def numbers(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Those of a chunk; None where it is missing or damaged."""
        content = self.sound(name)
        if content is None or len(content) != np.dtype(dtype).itemsize * np.prod(shape):
            return None
        return np.frombuffer(content, dtype).reshape(shape)

    def names(self, *patterns: str) -> set[str]:
        """Of the files that match, but for those cut short."""
        found = (file for pattern in patterns for file in self.folder.glob(pattern) if not file.is_dir())
        return {file.relative_to(self.folder).as_posix() for file in found if not file.match(PARTIAL.format("*"))}

    def clear(self) -> None:
        """Remove what was cut short; other files are nobody's business."""
        for left_over in self.folder.rglob(PARTIAL.format("*")):
            left_over.unlink()

    def _holds(self, name, content) -> bool:
        return name in self and (self.folder / name).read_bytes() == content


def checked() -> dict[str, Any]:
    """The encoding of an array of such chunks, for zarr and xarray."""
    from numcodecs import CRC32

    return {"filters": [CRC32()], "compressors": None}


def chunk(numbers: np.ndarray) -> bytes:
    """The content of a chunk's file, which zarr takes five times as long to write."""
    from numcodecs import CRC32

    return CRC32().encode(numbers).tobytes()


def contents(files: Mapping[str, Any]) -> dict[str, bytes]:
    """What zarr wrote in memory, where it takes less time than on a disk."""
    return {name: buffer.to_bytes() for name, buffer in files.items()}

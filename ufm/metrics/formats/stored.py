"""An array in a file: its shape, and its rows a block at a time, without the others in memory."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An array in a file, which is read when it is asked for, as often as it is.

    Attributes:
        shape: of the array.
        whole: reads all of it, as an array of any library.
        blocks: reads blocks of about so many rows, one after the other.
    """

    shape: tuple[int, ...]
    whole: Callable[[], Any]
    blocks: Callable[[int], Iterator[Any]]

    def guarded(self, otherwise: str) -> "Stored":
        """The same, with a ValueError that begins with `otherwise` whatever goes wrong while it is read."""

        def blocks(rows: int) -> Iterator[Any]:
            left = iter(self.blocks(rows))
            while (block := attempt(otherwise, lambda: next(left, None))) is not None:
                yield block

        return Stored(self.shape, lambda: attempt(otherwise, self.whole), blocks)


Openers: TypeAlias = dict[str, Callable[[], Stored]]  # of arrays by name; "" names one that has no name


class Arrays:
    """The arrays of a file by name, opened when they are asked for, so that one that is damaged is no other's harm."""

    def __init__(self, file: pathlib.Path, openers: Openers):
        self._file, self._openers = file, openers

    def __getitem__(self, name: str) -> Stored:
        otherwise = f"{self._file}: {name or 'it'} cannot be read"
        return attempt(otherwise, self._openers[name]).guarded(otherwise)

    def __contains__(self, name: str) -> bool:
        return name in self._openers

    def __iter__(self) -> Iterator[str]:
        return iter(self._openers)

    def __len__(self) -> int:
        return len(self._openers)


def sliced(array: Any, chunk: int = 1) -> Stored:
    """What reads slices of itself; blocks are of whole chunks of so many rows, where it reads no less."""

    def blocks(rows: int) -> Iterator[Any]:
        step = -(-rows // chunk) * chunk
        return (array[first : first + step] for first in range(0, array.shape[0], step))

    return Stored(tuple(array.shape), lambda: array[()], blocks)


def attempt(otherwise: str, read: Callable[[], T]) -> T:
    """What `read` gives, or a ValueError; that an array is too large stays a MemoryError, which says how large."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # whatever several libraries raise where a file is damaged
        raise ValueError(f"{otherwise} ({error})") from error

"""Arrays by name in files of several formats, opened without reading them; never a pickle."""

import contextlib
import importlib
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ufm.metrics.formats import hdf5, npy, npz, parquet, pytorch, safetensors
from ufm.metrics.formats.stored import Arrays, Openers, attempt


class Format(NamedTuple):
    """How files of a kind are opened and written.

    Attributes:
        read: what opens each array of a file, which stays open as long as the stack given.
        saved: Python that writes such a file of features and labels.
        library: that reads it, beside NumPy.
        install: what pip installs for it.
    """

    read: Callable[[pathlib.Path, contextlib.ExitStack], Openers]
    saved: str
    library: str = ""
    install: str = ""


_EXTRA = "'ufm[files]'"
_HDF5 = Format(hdf5.read, 'h5py.File(FILE, "w").update(H=..., labels=...)', "h5py", _EXTRA)
_TORCH = Format(pytorch.read, 'torch.save({"H": ..., "labels": ...}, FILE)', "torch", "torch")
FORMATS = {
    ".npz": Format(npz.read, "np.savez(FILE, H=..., labels=...)"),
    ".npy": Format(npy.read, "np.save(FILE, H)"),
    ".safetensors": Format(safetensors.read, 'safetensors.numpy.save_file({"H": ..., "labels": ...}, FILE)'),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".parquet": Format(
        parquet.read, 'pandas.DataFrame({"H": list(H), "labels": labels}).to_parquet(FILE)', "pyarrow", _EXTRA
    ),
    ".pt": _TORCH,
    ".pth": _TORCH,
}


@contextlib.contextmanager
def opened(file: pathlib.Path) -> Iterator[Arrays]:
    """The arrays of a file by name, which can be read until the context ends.

    Raises:
        ValueError: for a file that is missing, damaged or of no known format, and a library that is missing. Reading
            an array that is damaged or no plain array is one too.
        OSError: where the system doesn't let it be opened.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file; one with features H and labels is needed")
    with file.open("rb"):  # or the system says why not
        kind = _format(file)
    with contextlib.ExitStack() as stack:
        article = "an" if file.suffix[1] in "hn" else "a"
        damaged = f"{file}: not {article} {file.suffix} file, or a damaged one; {kind.saved} writes what is read"
        yield Arrays(file, attempt(damaged, lambda: kind.read(file, stack)))


def _format(file: pathlib.Path) -> Format:
    """By the ending of a file's name; or a ValueError that says which there are, or what is to be installed."""
    kind = FORMATS.get(file.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{file}: a name that ends in {', '.join(FORMATS)} is needed, for these are read, and never a pickle; "
            f"{FORMATS['.npz'].saved} writes one"
        )
    try:
        if kind.library:
            importlib.import_module(kind.library)
    except ImportError as error:
        raise ValueError(f"{file}: {kind.library} reads it, and is missing: pip install {kind.install}") from error
    return kind

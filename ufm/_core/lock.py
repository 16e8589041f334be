"""One process at a time in a folder, on every system; a lock ends with its process."""

import errno
import os
import pathlib
import platform
from typing import Any

CANNOT_LOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def hold(folder: pathlib.Path) -> Any:
    """Lock a folder, made where it is not there; the lock's `release()` gives it back.

    Raises:
        BlockingIOError: where another process has it; the message says which.
        OSError: where the folder cannot be written, or its file system cannot lock.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".holder"  # beside the lock, which some systems let nobody else read
    lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, f"in use by {_name(holder)}") from None
    except OSError as error:
        if error.errno in CANNOT_LOCK:
            reason = f"its file system cannot lock files ({os.strerror(error.errno)}), and another one is needed"
            raise OSError(error.errno, reason) from error
        raise
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}")
    except BaseException:
        lock.release()
        raise
    return lock


def _name(holder: pathlib.Path) -> str:
    """Who has the lock, where this was written already."""
    return (holder.read_text() if holder.exists() else "") or "another process"

"""Files that are written whole or not at all, and their hashes."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lesionforge.errors import BadInput

PARTIAL = ".partial"  # what an unfinished file or folder is called; safe to delete
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def sha256_of_bytes(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not JSON ({error}); it was damaged or edited, make it anew") from error


def write_json(path: Path, value: Any) -> None:
    with write_whole(path, "w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


@contextmanager
def write_whole(path: Path, mode: str = "wb", size: int = 0) -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when all of it is on disk; on any error the old file stays.

    The temporary file lies in the same folder (a rename over file systems is a copy), is flushed and fsynced, then
    renamed, then the folder is fsynced. It is locked while it is written: one that is not was left by a killed process.

    Args:
        size: bytes that will be written, where that is known; a disk without that much room is refused beforehand.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with disk_errors(path, size):
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_stale(path.parent, path.name)
            if size > shutil.disk_usage(path.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open_held(partial, mode) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)  # before the lock goes: what is not locked is stale
            fsync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            partial.unlink()


@contextmanager
def open_held(partial: Path, mode: str) -> Iterator[IO[Any]]:
    """Open and lock a new file; again where another process took it for stale in the moment before the lock."""
    while True:
        with open(partial, mode) as file:
            with suppress(OSError):  # a file system without locks: nothing is taken for stale there
                fcntl.flock(file, fcntl.LOCK_EX)
            if partial.exists():
                yield file
                return


def is_same(file: IO[Any], path: Path) -> bool:
    """Whether an open file is still the one of that name, not one that another process has deleted."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def clear_stale(folder: Path, name: str = "*") -> None:
    """Delete what killed processes left of the files called `name`; a living writer holds a lock on its own."""
    for stale in folder.glob(f".{name}.[0-9]*{PARTIAL}"):
        with suppress(FileNotFoundError), open(stale, "r+b") as file:
            if hold(file) and is_same(file, stale):
                stale.unlink()


def hold(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; False where another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def write_folder_whole(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends without error.

    Raises:
        BadInput: `path` exists already and is not an empty folder, or another process is making it.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{path} exists already; name another folder, or delete it first")
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with disk_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
    with locked(partial, path):
        try:
            for entry in partial.iterdir():  # what a killed process left
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            with disk_errors(path):
                yield partial
            if path.exists():
                path.rmdir()
            os.replace(partial, path)
            fsync_folder(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(folder: Path, made: Path) -> Iterator[None]:
    """Hold an existing folder for this process; the system lets go of it when the process ends, however it ends.

    On a network file system only the processes of one machine see each other.

    Raises:
        BadInput: another process holds it, and so is at work on `made`.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"{made}: another lesionforge is at work on it; wait for its end, or name another"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn a full disk, a spent quota or a forbidden path into one line: the path, the bytes needed, what is free."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            needed = f"{size / 2**20:,.1f} MiB needed, " if size else ""
            free = shutil.disk_usage(nearest_folder(path)).free / 2**20
            raise BadInput(
                f"{path}: cannot be written, the disk is full or a limit is reached ({error.strerror}; {needed}"
                f"{free:,.1f} MiB free); nothing was changed, make room and run the same command again"
            ) from error
        if error.errno in UNWRITABLE:
            raise BadInput(f"{path}: cannot be written ({error.strerror}); choose a folder of your own") from error
        raise


def nearest_folder(path: Path) -> Path:
    """The first folder above `path` that exists."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are written whole or not at all, and their hashes."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lesionforge.errors import BadInput

PARTIAL = ".partial"  # what an unfinished file or folder is called; safe to delete


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not JSON ({error}); it was damaged or edited, make it anew") from error


def write_json(path: Path, value: Any) -> None:
    with write_whole(path, "w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


@contextmanager
def write_whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when all of it is on disk; on any error the old file stays.

    The temporary file lies in the same folder (a rename over file systems is a copy), is flushed and fsynced, then
    renamed, then the folder is fsynced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with disk_errors(path), open(partial, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        fsync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_folder_whole(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends without error.

    Raises:
        BadInput: `path` exists already and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{path} exists already; name another folder, or delete it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with disk_errors(path):
            yield partial
        if path.exists():
            path.rmdir()
        os.replace(partial, path)
        fsync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a spent quota or a forbidden path into one line that names the path and what is free."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(nearest_folder(path)).free / 2**20
            raise BadInput(
                f"{path}: cannot be written, the disk is full or a limit is reached ({error.strerror}; "
                f"{free:,.0f} MiB free); nothing was changed, make room and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadInput(f"{path}: cannot be written ({error.strerror}); choose a folder that you may write to") from error
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

"""One file over HTTP that survives a bad line, and ZIP archives opened without trust. Standard library only."""

import errno
import http.client
import logging
import re
import shutil
import ssl
import stat
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib import error, parse, request

import lesionforge
from lesionforge.errors import BadInput
from lesionforge.files import PARTIAL, disk_errors, fsync_folder, nearest_folder, read_json, sha256_of_file, write_json
from lesionforge.progress import progress
from lesionforge.tables import in_short

log = logging.getLogger("lesionforge")

MIB = 2**20
CHUNK = 256 * 1024  # bytes
TIMEOUT = 60.0  # seconds without a byte
LONGEST_WAIT = 60.0  # seconds between two attempts
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may pass
BROKEN = (OSError, http.client.HTTPException)  # URLError, timeouts and resets are OSErrors
VALIDATOR = f".validator{PARTIAL}"  # beside a partial file: what its server called this version of the file


class KeepsToHttp(request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http nor to another scheme."""

    def redirect_request(self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        was, now = parse.urlsplit(req.full_url).scheme, parse.urlsplit(newurl).scheme
        if now not in ("http", "https") or (was, now) == ("https", "http"):
            fp.close()
            raise BadInput(f"{without_query(req.full_url)} leads on to {without_query(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def file_name_of(url: str) -> str:
    """Name of the file that a URL ends in.

    Raises:
        BadInput: not http or https, a password in the URL, or no plain file name at its end.
    """
    pieces = parse.urlsplit(url)
    if pieces.scheme not in ("http", "https") or not pieces.hostname:
        raise BadInput(f"{without_query(url)}: expected a URL that begins with https:// (or http://)")
    if pieces.username or pieces.password:
        raise BadInput(
            f"{pieces.hostname}: the URL holds a user name or password, which would be written to the run; drop it"
        )
    name = parse.unquote(pieces.path.rsplit("/", 1)[-1])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ +-]{0,150}", name):
        raise BadInput(f"{without_query(url)}: expected a URL that ends in a file name, found {name!r}")
    return name


def without_query(url: str) -> str:
    """A URL fit for a log: signed links carry secrets after the question mark."""
    pieces = parse.urlsplit(url)
    return parse.urlunsplit((pieces.scheme, pieces.netloc.rsplit("@", 1)[-1], pieces.path, "", ""))


def fetch(url: str, path: Path, *, sha256: str | None, attempts: int, wait: float = 1.0) -> str:
    """Download `url` to `path`, which appears only when it is whole; goes on with what an earlier call has left.

    A partial file is continued only if the server says that it is the same version still (ETag or Last-Modified), or
    if `sha256` will tell. An attempt that brought nothing new counts; one that did starts the count again.

    Args:
        sha256: expected, 64 hexadecimal digits; None takes what comes.
        attempts: in a row that may bring nothing new.
        wait: seconds before the second attempt; doubles up to LONGEST_WAIT, or what the server asks for.

    Returns:
        SHA-256 of the file.

    Raises:
        BadInput: refused by the server, no success in `attempts`, no room, or another checksum.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    validator = path.with_name(f".{path.name}{VALIDATOR}")
    failures, furthest = 0, size_of(partial)
    with disk_errors(path):
        while True:
            try:
                one_attempt(url, partial, validator, trust=sha256 is not None)
                break
            except error.HTTPError as refusal:
                refusal.close()
                if refusal.code not in TRANSIENT:
                    raise BadInput(
                        f"{without_query(url)}: the server answers {refusal.code} {refusal.reason}; check the URL"
                    ) from refusal
                problem, asked = (
                    f"the server answers {refusal.code} {refusal.reason}",
                    refusal.headers.get("Retry-After", ""),
                )
            except BROKEN as broken:
                if getattr(broken, "filename", None) is not None or is_disk_error(broken):
                    raise  # our disk, not the line
                reason = getattr(broken, "reason", None) or broken
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise BadInput(
                        f"{without_query(url)}: {reason.verify_message}; the server is not who it says"
                    ) from broken
                problem, asked = str(reason) or type(reason).__name__, ""
            failures = 0 if size_of(partial) > furthest else failures + 1
            furthest = max(furthest, size_of(partial))
            if failures >= attempts:
                kept = f"; {furthest / MIB:,.1f} MiB are kept, the same command goes on from there" if furthest else ""
                raise BadInput(f"{without_query(url)}: no success in {attempts} attempts ({problem}){kept}")
            seconds = min(float(asked) if asked.isdigit() else wait * 2 ** max(failures - 1, 0), LONGEST_WAIT)
            log.warning("download: %s; trying again in %.1f s at %.1f MiB", problem, seconds, size_of(partial) / MIB)
            time.sleep(seconds)

        found = sha256_of_file(partial)
        if sha256 is not None and found != sha256.lower():
            partial.unlink()
            validator.unlink(missing_ok=True)
            raise BadInput(
                f"{without_query(url)}: SHA-256 is {found}, expected {sha256.lower()}; the file was deleted, check the "
                f"checksum and run the same command again"
            )
        partial.replace(path)
        validator.unlink(missing_ok=True)
        fsync_folder(path.parent)
    return found


def one_attempt(url: str, partial: Path, validator: Path, trust: bool) -> None:
    """Bring `partial` to its full length, or raise; what arrived before an error stays on disk."""
    known = read_json(validator) if validator.is_file() else {}
    start = size_of(partial) if trust or known.get("tag") else 0
    headers = {"User-Agent": f"lesionforge/{lesionforge.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.get("tag"):
            headers["If-Range"] = known["tag"]
    try:
        response = request.build_opener(KeepsToHttp).open(request.Request(url, headers=headers), timeout=TIMEOUT)
    except error.HTTPError as refusal:
        if refusal.code == 416 and start:  # nothing comes after our last byte
            whole = re.fullmatch(r"bytes \*/(\d+)", refusal.headers.get("Content-Range", ""))
            refusal.close()
            if whole and int(whole[1]) == start:
                return
            partial.unlink()
            raise http.client.HTTPException(
                "what was kept does not fit what the server has; starting anew"
            ) from refusal
        raise
    with response:
        total = length_of(response)
        if response.status == 206:
            begins = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not begins or int(begins[1]) != start:
                partial.unlink(missing_ok=True)
                raise http.client.HTTPException("the server sent another range than was asked for; starting anew")
            total = None if begins[2] == "*" else int(begins[2])
            log.info("download: going on at %.1f MiB", start / MIB)
        else:
            if start:
                log.info("download: the server does not continue the file (no ranges, or it changed); starting anew")
            start = 0
            partial.unlink(missing_ok=True)  # before the tag of another version stands beside it
            tag = response.headers.get("ETag", "")
            tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
            write_json(validator, {"tag": tag})
        require_room(partial, (total or 0) - start)
        with open(partial, "ab" if start else "wb") as file:
            received = start + copy_all(response, file, partial.name.strip(".").removesuffix(PARTIAL), total, start)
    if total is not None and received != total:
        if received > total:
            partial.unlink()
        raise http.client.HTTPException(f"the connection ended at {received:,} of {total:,} bytes")


def copy_all(response: Any, file: IO[bytes], name: str, total: int | None, start: int) -> int:
    """Copy what the response holds; returns the number of bytes."""
    received = shown = 0
    with progress(f"downloading {name}", max(1, ((total or 0) - start) // MIB), unit="MiB") as advance:
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            received += len(chunk)
            if received // MIB > shown:
                advance(received // MIB - shown)
                shown = received // MIB
    return received


def length_of(response: Any) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def is_disk_error(problem: BaseException) -> bool:
    return getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def require_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(nearest_folder(path.parent)).free
    if needed > free:
        raise BadInput(f"{path.parent}: {needed / MIB:,.0f} MiB are needed, {free / MIB:,.0f} MiB are free; make room")


def extract_zip(archive: Path, folder: Path, limit: int) -> int:
    """Extract every file of a ZIP archive below `folder`, an existing empty one; nothing outside it is ever touched.

    Args:
        limit: bytes, of all files together.

    Returns:
        the number of files.

    Raises:
        BadInput: not a ZIP, damaged, larger than `limit`, or with members that are refused (all are listed).
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            require_safe(archive, file.infolist(), limit)
            require_room(folder, sum(member.file_size for member in members))
            with progress(f"extracting {archive.name}", len(members), unit="files") as advance:
                for member in members:
                    goal = folder / PurePosixPath(member.filename)
                    goal.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(member) as source, open(goal, "xb") as copy:
                        shutil.copyfileobj(source, copy, CHUNK)  # reads at most file_size, then compares the CRC
                    advance(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as problem:
        raise BadInput(f"{archive}: not a whole ZIP archive ({problem}); delete it and download it again") from problem
    return len(members)


def require_safe(archive: Path, members: list[zipfile.ZipInfo], limit: int) -> None:
    checks: list[tuple[str, Callable[[zipfile.ZipInfo], bool]]] = [
        ("would be written outside the folder", is_outside),
        ("are links or devices", is_special),
        ("have names that no disk takes", lambda member: any(len(part.encode()) > 255 for part in parts_of(member))),
        ("are encrypted", lambda member: bool(member.flag_bits & 1)),
    ]
    problems = []
    for what, is_bad in checks:
        if bad := [member.filename for member in members if is_bad(member)]:
            problems.append(f"{len(bad):,} members {what}: {in_short(bad)}")
    names = [PurePosixPath(member.filename.casefold()) for member in members if not member.is_dir()]
    folders = {parent for name in names for parent in name.parents}
    if twice := len(names) - len(set(names) - folders):
        problems.append(f"{twice:,} names stand in it twice")
    if (size := sum(member.file_size for member in members)) > limit:
        problems.append(f"its files have {size / MIB:,.0f} MiB, the limit is {limit / MIB:,.0f} MiB")
    if problems:
        raise BadInput("\n  ".join([f"{archive}: refused, nothing was extracted", *problems]))


def is_outside(member: zipfile.ZipInfo) -> bool:
    name = member.orig_filename
    return (
        name.startswith("/")
        or ".." in parts_of(member)
        or any(character in name for character in "\\:\0")
        or not parts_of(member)
    )


def parts_of(member: zipfile.ZipInfo) -> tuple[str, ...]:
    return PurePosixPath(member.orig_filename).parts


def is_special(member: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(member.external_attr >> 16)
    return kind not in (0, stat.S_IFREG, stat.S_IFDIR)

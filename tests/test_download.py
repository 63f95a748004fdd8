"""download: bad lines, wrong checksums and hostile archives, against a real HTTP server on this machine."""

import hashlib
import http.server
import io
import json
import logging
import re
import resource
import stat
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib import request

import numpy as np
import pytest
from pydantic import ValidationError

from lesionforge.data.download import DownloadConfig, download
from lesionforge.data.fetch import KeepsToHttp, extract_zip, fetch, file_name_of, without_query
from lesionforge.errors import BadInput

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server:
    """What a test's server does, and what it was asked."""

    def __init__(self) -> None:
        self.body = BODY
        self.etag: str | None = '"one"'
        self.takes_ranges = True
        self.breaks_after: list[int] = []  # bytes, one entry an answer; then answers are whole
        self.statuses: list[int] = []  # answered first
        self.location = ""  # of a redirect
        self.ranges: list[str | None] = []  # what was asked, in order
        self.url = ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Server

    def do_GET(self) -> None:
        plan = self.plan
        plan.ranges.append(self.headers.get("Range"))
        self.close_connection = True
        if plan.statuses:
            status = plan.statuses.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 302:
                self.send_header("Location", plan.location)
            if status == 503:
                self.send_header("Retry-After", "0")
            self.end_headers()
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, plan.etag)
        if asked and plan.takes_ranges and same:
            start = int(asked[1])
        if start >= len(plan.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(plan.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(plan.body) - 1}/{len(plan.body)}")
        if plan.etag:
            self.send_header("ETag", plan.etag)
        self.send_header("Content-Length", str(len(plan.body) - start))
        self.end_headers()
        end = start + plan.breaks_after.pop(0) if plan.breaks_after else len(plan.body)
        self.wfile.write(plan.body[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    plan = Server()
    handler = type("PlannedHandler", (Handler,), {"plan": plan})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        plan.url = f"http://127.0.0.1:{httpd.server_address[1]}/files/images.zip?signature=secret"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield plan
        httpd.shutdown()
        thread.join()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., bytes]:
    def fetched(sha256: str | None = SHA256, attempts: int = 3) -> bytes:
        path = tmp_path / "images.zip"
        found = fetch(server.url, path, sha256=sha256, attempts=attempts, wait=0.01)
        assert [file.name for file in tmp_path.iterdir()] == ["images.zip"]
        assert found == hashlib.sha256(path.read_bytes()).hexdigest()
        return path.read_bytes()

    return fetched


def test_a_file_arrives_whole(server: Server, get: Callable[..., bytes]) -> None:
    assert get() == BODY
    assert server.ranges == [None]


def test_a_broken_connection_is_continued(server: Server, get: Callable[..., bytes]) -> None:
    server.breaks_after = [1_000_000, 500_000]
    assert get() == BODY
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_more_breaks_than_attempts_if_each_brings_something(server: Server, get: Callable[..., bytes]) -> None:
    server.breaks_after = [100_000] * 10
    assert get(attempts=2) == BODY
    assert len(server.ranges) == 11


def test_an_interrupted_command_is_continued_by_the_same_command(
    server: Server, tmp_path: Path, get: Callable[..., bytes]
) -> None:
    server.breaks_after = [1_200_000, 0, 0]
    with pytest.raises(BadInput) as caught:
        get(sha256=None, attempts=2)
    assert "no success in 2 attempts (the connection ended at 1,200,000 of 3,000,000 bytes)" in str(caught.value)
    assert "1.1 MiB are kept, the same command goes on from there" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "images.zip").exists()
    assert get(sha256=None) == BODY
    assert server.ranges[-1] == "bytes=1200000-"


@pytest.mark.parametrize("etag", ['"two"', None, 'W/"one"'])
def test_another_version_is_not_glued_to_the_first(
    server: Server, tmp_path: Path, get: Callable[..., bytes], etag: str | None
) -> None:
    """The file changes on the server in between; a server without a strong tag cannot tell, so it starts anew."""
    if etag != '"two"':
        server.etag = etag
    server.breaks_after = [1_200_000, 0]
    with pytest.raises(BadInput):
        get(sha256=None, attempts=1)
    server.body, server.etag = BODY[::-1], etag
    server.breaks_after = []
    assert get(sha256=None) == BODY[::-1]


def test_a_server_without_ranges(server: Server, get: Callable[..., bytes]) -> None:
    server.takes_ranges = False
    server.breaks_after = [1_000_000, 2_000_000]
    assert get() == BODY
    assert len(server.ranges) == 3


def test_a_server_without_ranges_that_always_breaks_is_given_up(server: Server, get: Callable[..., bytes]) -> None:
    server.takes_ranges = False
    server.breaks_after = [1_000_000] * 50
    with pytest.raises(BadInput, match="no success in 3 attempts"):
        get()
    assert len(server.ranges) == 4


def test_all_had_come_but_the_name(server: Server, tmp_path: Path, get: Callable[..., bytes]) -> None:
    """Killed between the last byte and the rename: the server answers 416, and the checksum decides."""
    (tmp_path / ".images.zip.partial").write_bytes(BODY)
    assert get() == BODY
    assert server.ranges == [f"bytes={len(BODY)}-"]


def test_more_was_kept_than_the_server_has(server: Server, tmp_path: Path, get: Callable[..., bytes]) -> None:
    (tmp_path / ".images.zip.partial").write_bytes(BODY + b"more")
    assert get() == BODY
    assert server.ranges == [f"bytes={len(BODY) + 4}-", None]


def test_wrong_checksum(server: Server, tmp_path: Path, get: Callable[..., bytes]) -> None:
    with pytest.raises(BadInput, match=f"SHA-256 is {SHA256}, expected {'0' * 64}; the file was deleted"):
        get(sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    assert get(sha256=SHA256.upper()) == BODY


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (410, "Gone")])
def test_a_refusal_is_not_tried_again(
    server: Server, tmp_path: Path, get: Callable[..., bytes], status: int, reason: str
) -> None:
    server.statuses = [status] * 5
    with pytest.raises(BadInput, match=rf"images\.zip: the server answers {status} {reason}; check the URL"):
        get()
    assert len(server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_tried_again(server: Server, get: Callable[..., bytes]) -> None:
    server.statuses = [503, 500]
    assert get() == BODY
    server.statuses = [503] * 9
    with pytest.raises(BadInput, match=r"no success in 3 attempts \(the server answers 503 Service Unavailable\)$"):
        get()


def test_a_full_disk_is_named(server: Server, tmp_path: Path, get: Callable[..., bytes]) -> None:
    """A limit on file sizes stands in for the full disk; what had come is kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(BadInput, match=r"images\.zip: cannot be written, the disk is full or a limit is reached"):
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert get() == BODY
    assert server.ranges[1] not in (None, "bytes=0-")


def test_no_server(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        port = httpd.server_address[1]
    with pytest.raises(BadInput, match=r"no success in 2 attempts \(.*refused"):
        fetch(f"http://127.0.0.1:{port}/a.zip", tmp_path / "a.zip", sha256=None, attempts=2, wait=0.01)


def test_redirects(server: Server, get: Callable[..., bytes]) -> None:
    server.statuses, server.location = [302], "/elsewhere/other.zip"
    assert get() == BODY
    server.statuses, server.location = [302], "file:///etc/passwd"
    with pytest.raises(BadInput, match="Redirection to url 'file:///etc/passwd' is not allowed"):
        get()


@pytest.mark.parametrize("goal", ["http://host/a.zip", "ftp://host/a.zip"])
def test_https_is_not_left(goal: str) -> None:
    asked = request.Request("https://host/a.zip?key=1")
    with pytest.raises(BadInput, match=f"https://host/a.zip leads on to {goal}, which is not https"):
        KeepsToHttp().redirect_request(asked, io.BytesIO(), 302, "Found", {}, goal)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "expected a URL that begins with https://"),
        ("ftp://host/a.zip", "expected a URL that begins with https://"),
        ("https://me:word@host/a.zip", "host: the URL holds a user name or password"),
        ("https://host/", "ends in a file name, found ''"),
        ("https://host/a/..%2Fb", "ends in a file name, found '../b'"),
        ("https://host/.bashrc", "ends in a file name, found '.bashrc'"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        file_name_of(url)
    assert message in str(caught.value)
    assert "word@" not in str(caught.value)


def test_names_in_urls() -> None:
    assert file_name_of("https://host/x/ISIC_2024%20Training.zip?X-Amz-Signature=1") == "ISIC_2024 Training.zip"
    assert without_query("https://me:pw@host/a.zip?key=1#2") == "https://host/a.zip"


def archive(path: Path, *members: tuple[str, bytes], mode: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode is not None:
                info.external_attr = mode << 16
            file.writestr(info, data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "out"
    path.mkdir(parents=True)
    return path


def test_an_archive_is_extracted(tmp_path: Path, folder: Path) -> None:
    path = archive(tmp_path / "a.zip", ("images/", b""), ("images/ISIC_1.jpg", b"one"), ("licence.txt", b"two"))
    assert extract_zip(path, folder, limit=6) == 2
    assert (folder / "images/ISIC_1.jpg").read_bytes() == b"one"
    assert (folder / "licence.txt").read_bytes() == b"two"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/tmp/evil.txt",
        "..\\evil.txt",
        "C:evil.txt",
        "a/..",
        ".",
        "../../deep/out2/x",
    ],
)
def test_no_member_leaves_the_folder(tmp_path: Path, folder: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", ("good.txt", b"good"), (name, b"evil"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        BadInput, match="refused, nothing was extracted\n  1 members would be written outside the folder"
    ):
        extract_zip(path, folder, limit=100)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path: Path, folder: Path, kind: int) -> None:
    path = archive(tmp_path / "a.zip", ("link", b"/etc/passwd"), mode=kind | 0o777)
    with pytest.raises(BadInput, match="1 members are links or devices: link"):
        extract_zip(path, folder, limit=100)
    assert list(folder.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_all_that_is_wrong_is_listed_at_once(tmp_path: Path, folder: Path) -> None:
    path = archive(
        tmp_path / "a.zip", ("A.txt", b"1"), ("a.TXT", b"2"), ("b", b"3"), ("b/c", b"4"), ("../d", b"5" * 3_000_000),
        ("x" * 256, b""),
    )  # fmt: skip
    with pytest.raises(BadInput) as caught:
        extract_zip(path, folder, limit=2**20)
    text = str(caught.value)
    assert "1 members would be written outside the folder: ../d" in text
    assert "2 names stand in it twice" in text
    assert "1 members have names that no disk takes" in text
    assert "its files have 3 MiB, the limit is 1 MiB" in text
    assert list(folder.iterdir()) == []


def test_a_bomb_is_refused_before_it_is_opened(tmp_path: Path, folder: Path) -> None:
    """100 MB of zeros in 100 kB; and one that lies about its size is cut off at what it says."""
    path = archive(tmp_path / "bomb.zip", ("zeros", bytes(100_000_000)))
    assert path.stat().st_size < 200_000
    with pytest.raises(BadInput, match="its files have 95 MiB, the limit is 10 MiB"):
        extract_zip(path, folder, limit=10 * 2**20)
    honest, lie = (100_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(honest, lie))
    with pytest.raises(BadInput, match="not a whole ZIP archive"):
        extract_zip(path, folder, limit=10 * 2**20)
    assert (folder / "zeros").stat().st_size <= 1000


def test_damaged_archives(tmp_path: Path, folder: Path) -> None:
    path = archive(tmp_path / "a.zip", ("a.jpg", np.random.default_rng(0).bytes(5000)))
    good = path.read_bytes()
    for damaged in (b"", b"<html>not found</html>", good[:-30], good[:3000] + b"\0\0" + good[3002:]):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"a\.zip: not a whole ZIP archive \(.*\); delete it and download it again"):
            extract_zip(path, folder, limit=10_000)
        for left in folder.iterdir():
            left.unlink()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("images/ISIC_0000001.jpg", b"picture")
        file.writestr("metadata.csv", b"isic_id\n")
    return buffer.getvalue()


def test_the_verb_downloads_checks_extracts_and_records(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.body = zipped()
    server.breaks_after = [100]
    sha256 = hashlib.sha256(server.body).hexdigest()
    config = DownloadConfig(source="url", url=server.url, sha256=sha256, out=tmp_path / "isic", extract=True)
    with caplog.at_level(logging.INFO, "lesionforge"):
        download(config)
    assert (tmp_path / "isic/images/images/ISIC_0000001.jpg").read_bytes() == b"picture"
    assert (tmp_path / "isic/images.zip").read_bytes() == server.body
    done = json.loads((tmp_path / "isic/done.json").read_text())
    assert (done["file"], done["sha256"], done["num_files"]) == ("images.zip", sha256, 2)
    assert "going on at 0.0 MiB" in (tmp_path / "isic/log.txt").read_text()
    assert "secret" not in caplog.text

    asked = len(server.ranges)
    download(config)  # finished: the server is not asked again
    assert len(server.ranges) == asked
    with pytest.raises(BadInput, match="holds a run of another config"):
        download(config.model_copy(update={"extract": False}))


def test_the_verb_without_a_checksum_says_so(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lesionforge"):
        download(DownloadConfig(source="url", url=server.url, out=tmp_path / "isic"))
    assert f"SHA-256 {SHA256}" in caplog.text
    assert "the file was not checked; give --sha256" in caplog.text


def test_the_verb_goes_on_after_a_failure(server: Server, tmp_path: Path) -> None:
    server.body = b"not a zip"
    config = DownloadConfig(source="url", url=server.url, out=tmp_path / "isic", extract=True)
    with pytest.raises(BadInput, match="not a whole ZIP archive"):
        download(config)
    assert not (tmp_path / "isic/images").exists()
    assert not (tmp_path / "isic/done.json").exists()
    (tmp_path / "isic/images.zip").unlink()  # as the message says
    server.body = zipped()
    download(config)
    assert (tmp_path / "isic/images/metadata.csv").exists()


def test_a_name_that_would_replace_a_record(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"a file called done\.json would replace a record"):
        download(DownloadConfig(source="url", url="https://host/done.json", out=tmp_path / "x"))


FILES = ("train-image.hdf5", "train-metadata.csv", "test-image.hdf5", "test-metadata.csv", "sample_submission.csv")
STAND_IN = """
from pathlib import Path

def competition_download(handle, path=None):
    assert handle == "isic-2024-challenge"
    problem = Path(__file__).with_name("problem.txt")
    if problem.exists():
        raise RuntimeError(problem.read_text())
    return str(Path(__file__).parent / "cache" / path)
"""


@pytest.fixture
def kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the package, since the real one needs an account; the five files lie in its cache."""
    package = tmp_path / "packages"
    (package / "cache").mkdir(parents=True)
    for name in FILES:
        (package / "cache" / name).write_bytes(name.encode())
    (package / "kagglehub.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, "kagglehub", raising=False)
    return package


def test_the_challenge(kagglehub: Path, tmp_path: Path) -> None:
    download(DownloadConfig(out=tmp_path / "challenge"))
    for name in FILES:
        assert (tmp_path / "challenge" / name).read_bytes() == name.encode()
    assert json.loads((tmp_path / "challenge/done.json").read_text())["sizes"]["train-image.hdf5"] == 16
    sys.modules.pop("kagglehub")


def test_the_challenge_without_an_account(kagglehub: Path, tmp_path: Path) -> None:
    (kagglehub / "problem.txt").write_text("User is not authenticated\nsecond line")
    with pytest.raises(BadInput) as caught:
        download(DownloadConfig(out=tmp_path / "challenge"))
    text = str(caught.value)
    assert text.startswith(
        "kagglehub cannot fetch train-metadata.csv of isic-2024-challenge: User is not authenticated; "
    )
    assert "log in" in text
    assert "accept the rules at https://www.kaggle.com/competitions/isic-2024-challenge/rules" in text
    (kagglehub / "problem.txt").unlink()
    download(DownloadConfig(out=tmp_path / "challenge"))
    sys.modules.pop("kagglehub")


def test_the_challenge_without_kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(BadInput, match=r"kagglehub is not installed: pip install 'lesionforge\[download\]'"):
        download(DownloadConfig(out=tmp_path / "challenge"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "url"}, "--source url and --url ADDRESS go together"),
        ({"url": "https://host/a.zip"}, "--source url and --url ADDRESS go together"),
        ({"extract": True}, "--sha256 and --extract go with --source url"),
        ({"source": "url", "url": "https://host/a.zip", "sha256": "abc"}, "should match pattern"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DownloadConfig.model_validate({"out": "x", **settings})

"""download: the challenge's files through kagglehub, or an archive by its URL, checked and resumed.

lesionforge download --out data/challenge
lesionforge download --source url --url https://HOST/ISIC_2024_Permissive_Training_Input.zip --extract --out data/isic
"""

import logging
import os
import shutil
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

COMPETITION = "isic-2024-challenge"
RECORDS = (run.CONFIG, run.ENVIRONMENT, run.LOG, run.DONE)
RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"


class DownloadConfig(Config):
    out: Path
    """Folder for what is fetched; the same command goes on where it was interrupted."""
    source: Literal["challenge", "url"] = "challenge"
    """challenge: its five files from Kaggle (extra `download`, a Kaggle account, its rules accepted). url: one file."""
    url: str | None = None
    """With --source url: address of the file, such as an archive of the ISIC site."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Expected SHA-256 of the file; none takes what comes and logs its SHA-256, to be given the next time."""
    extract: bool = False
    """Extract a ZIP archive, beside it, into a folder of its name."""
    extract_limit_gib: float = Field(20.0, gt=0)
    """Largest size of what an archive may hold, in GiB."""
    attempts: int = Field(8, ge=1)
    """Attempts in a row that may bring nothing new before the download stops; what has come is kept."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "attempts", "extract_limit_gib")

    @model_validator(mode="after")
    def url_goes_with_source_url(self) -> "DownloadConfig":
        if (self.source == "url") != (self.url is not None):
            raise ValueError("--source url and --url ADDRESS go together")
        if self.source != "url" and (self.sha256 or self.extract):
            raise ValueError("--sha256 and --extract go with --source url")
        return self


def download(config: DownloadConfig) -> None:
    """Fetch what the config names into its folder."""
    from lesionforge.data.fetch import file_name_of

    if run.already_done(config.out, config):
        return
    name = None if config.url is None else file_name_of(config.url)
    if name in RECORDS:
        raise BadInput(f"{config.url}: a file called {name} would replace a record of the download")
    with files.disk_errors(config.out), run.started(config.out, "download", config) as keep:
        try:
            if name is None:
                fetch_challenge(config.out)
            else:
                fetch_file(config, name)
        finally:
            if any(entry.name not in RECORDS for entry in config.out.iterdir()):  # there is something to go on with
                keep()


def fetch_file(config: DownloadConfig, name: str) -> None:
    """One file by URL, extracted where that is asked for."""
    from lesionforge.data.fetch import extract_zip, fetch

    assert config.url is not None
    path = config.out / name
    if path.is_file():  # whole: an earlier command was stopped while extracting
        sha256 = files.sha256_of_file(path)
    else:
        sha256 = fetch(config.url, path, sha256=config.sha256, attempts=config.attempts)
    size = path.stat().st_size
    log.info("download: %s, %.1f MiB, SHA-256 %s", path, size / 2**20, sha256)
    if config.sha256 is None:
        log.warning("download: the file was not checked; give --sha256 with the number that its publisher names")
    num_files = None
    if config.extract:
        folder = config.out / (path.stem if path.suffix else f"{name}-extracted")
        if not folder.exists():  # it appears whole or not at all
            with files.write_folder_whole(folder) as partial:
                num_files = extract_zip(path, partial, int(config.extract_limit_gib * 2**30))
            log.info("download: %s files in %s", f"{num_files:,}", folder)
    run.mark_done(config.out, file=name, size=size, sha256=sha256, num_files=num_files)


def fetch_challenge(out: Path) -> None:
    """The challenge's five files; its 401,059 single JPEGs, which the HDF5 holds too, stay on the server."""
    from lesionforge.data.challenge_write import (
        SAMPLE_SUBMISSION,
        TEST_IMAGES,
        TEST_METADATA,
        TRAIN_IMAGES,
        TRAIN_METADATA,
    )

    try:
        import kagglehub
    except ImportError as error:
        raise BadInput(
            "kagglehub is not installed: pip install 'lesionforge[download]', or give --source url"
        ) from error
    sizes = {}
    for name in (TRAIN_METADATA, TEST_METADATA, SAMPLE_SUBMISSION, TEST_IMAGES, TRAIN_IMAGES):
        try:
            cached = Path(kagglehub.competition_download(COMPETITION, path=name))
        except Exception as error:  # its errors have no common class; a full disk goes on to disk_errors
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(
                f"kagglehub cannot fetch {name} of {COMPETITION}: {reason}; log in (`python -c 'import kagglehub; "
                f"kagglehub.login()'`, or KAGGLE_USERNAME and KAGGLE_KEY), accept the rules at {RULES}, and try again"
            ) from error
        sizes[name] = place(cached, out / name)
        log.info("download: %s, %.1f MiB", out / name, sizes[name] / 2**20)
    run.mark_done(out, sizes=sizes)


def place(cached: Path, path: Path) -> int:
    """Give a file of kagglehub's cache a name in our folder: a hard link, or a copy on another disk. Its size."""
    if not cached.is_file() or not cached.stat().st_size:
        raise BadInput(f"{cached}: kagglehub brought no file; delete it and run the same command again")
    partial = path.with_name(f".{path.name}{files.PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        os.link(cached, partial)
    except OSError:
        shutil.copyfile(cached, partial)
    os.replace(partial, path)
    return path.stat().st_size

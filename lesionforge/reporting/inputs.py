"""What a report reads, with its digest: a finished report stands only for the files that it was made from."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lesionforge import files
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl


class Sources:
    """Reads files and remembers the SHA-256 of each, None of those that were looked for and are not there.

    A file that is missing gives None; a damaged one too, and is told of in `problems`. Neither stops a report.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digests: dict[str, str | None] = {}
        self.problems: list[str] = []

    def name(self, path: Path) -> str:
        """A path as the study has it: from its own folder where it lies below."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def bytes(self, path: Path) -> bytes | None:
        """All bytes of a file."""
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            self.digests[self.name(path)] = None
            return None
        except OSError as error:
            self.digests[self.name(path)] = None
            self.problems.append(f"{self.name(path)}: cannot be read ({error.strerror})")
            return None
        self.digests[self.name(path)] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, path: Path) -> str | None:
        data = self.bytes(path)
        return None if data is None else data.decode(errors="replace")

    def json(self, path: Path) -> Any:
        """What a JSON file holds."""
        text = self.text(path)
        if text is None:
            return None
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            self.problems.append(f"{self.name(path)}: not JSON ({error})")
            return None

    def object(self, path: Path) -> dict[str, Any]:
        """A JSON object; empty where there is none."""
        found = self.json(path)
        if found is not None and not isinstance(found, dict):
            self.problems.append(f"{self.name(path)}: not a JSON object")
        return found if isinstance(found, dict) else {}

    def settings(self, path: Path) -> dict[str, Any]:
        """A run's config.yaml; empty where there is none."""
        text = self.text(path)
        try:
            found = yaml.safe_load(text) if text is not None else {}
        except yaml.YAMLError as error:
            self.problems.append(f"{self.name(path)}: not YAML ({str(error).splitlines()[0]})")
            return {}
        return found if isinstance(found, dict) else {}

    def lines(self, path: Path) -> list[dict[str, Any]]:
        """The objects of a JSON Lines file; a last line that a kill cut off is left out."""
        rows = []
        for line in (self.text(path) or "").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def table(self, path: Path) -> "pl.DataFrame | None":
        """A CSV or Parquet table."""
        from lesionforge import tables

        if not path.is_file():
            self.digests[self.name(path)] = None
            return None
        self.digests[self.name(path)] = files.sha256_of_file(path)
        try:
            return tables.read_table(path)
        except BadInput as error:
            self.problems.append(str(error))
            return None

    def note(self, path: Path) -> bool:
        """Whether a file is there; its digest counts."""
        return self.bytes(path) is not None


def changed(before: dict[str, str | None], now: dict[str, str | None]) -> list[str]:
    """Names of the files that came, went or changed since a report was made."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))

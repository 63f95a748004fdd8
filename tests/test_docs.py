"""The documentation as Sphinx builds it: without a warning, without anything that a reader's browser would fetch."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lesionforge import recipe
from lesionforge.verbs import VERBS

pytest.importorskip("sphinx", reason="the extra docs is not installed")

DOCS = Path(__file__).parents[1] / "docs"
FETCHED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "use": "href",
}
NOT_FETCHED = {
    "index",
    "search",
    "next",
    "prev",
    "canonical",
    "author",
    "copyright",
}  # <link rel=...> without a request


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built HTML; warnings are errors."""
    out = tmp_path_factory.mktemp("docs")
    words = [
        "-W",
        "--keep-going",
        "-q",
        "-j",
        "1",
        "-b",
        "html",
        "-d",
        str(out / "doctrees"),
        str(DOCS),
        str(out / "html"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return out / "html"


class Fetches(HTMLParser):
    """What a browser asks for when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and NOT_FETCHED & set((given.get("rel") or "").split()):
            return
        if tag in FETCHED and (address := given.get(FETCHED[tag])):
            self.found.append(address)


def test_nothing_is_fetched_from_elsewhere_and_all_that_is_named_is_there(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        reader = Fetches()
        reader.feed(page.read_text())
        assert reader.found
        for address in reader.found:
            assert not re.match(r"(\w+:)?//", address) or address.startswith("data:"), f"{page.name}: {address}"
            if not address.startswith(("data:", "#")):
                assert (page.parent / re.sub(r"[?#].*", "", address)).is_file(), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_every_page_is_reached_and_every_formula_is_drawn_by_the_browser(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in sorted(DOCS.glob("*.md")):
        assert f"{page.stem}.html" in index or page.stem == "index", page.name
    methods = (site / "methods.html").read_text()
    assert methods.count("<math ") > 40
    assert "$" not in re.sub(r"<(style|script)\b.*?</\1>", "", methods, flags=re.DOTALL)


def test_every_recipe_stands_on_its_page_with_its_settings(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "recipes.html").read_text())
    for name in recipe.shipped():
        assert re.search(rf"lesionforge \w+ --recipe {name}\b", text), name
    assert "data.mix.malignant" in text
    assert "300,500" in text


def test_every_verb_stands_in_a_command_of_the_docs() -> None:
    text = "\n".join(page.read_text() for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"])
    for verb in VERBS:
        assert re.search(rf"^ *lesionforge {verb}\b", text, re.MULTILINE), verb


def test_every_measurement_stands_on_its_page() -> None:
    text = (DOCS / "measurements.md").read_text()
    for file in (DOCS / "benchmarks").glob("*.txt"):
        assert f"```{{literalinclude}} benchmarks/{file.name}\n" in text, file.name

"""A drawing is the same in the page, as SVG and as PNG; text in it is escaped; colours are roles."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np

from lesionforge.data import pixels
from lesionforge.reporting import drawing, painting, svg
from lesionforge.reporting.drawing import DARK, LIGHT, Dot, Drawing, Label, Picture
from lesionforge.reporting.drawing import Path as Line

PHOTOGRAPH = pixels.encode_jpeg(np.full((8, 8, 3), (200, 30, 30), np.uint8), 90)
MARKS = (
    Line([(10, 10), (90, 10)], "s1", 4, tip="a <b> & c"),
    Line([(10, 60), (50, 60), (50, 80), (10, 80)], None, fill="accent", opacity=1),
    Dot(70, 70, 8, "s2", "s2"),
    Label(10, 40, "<script>$x$", 12),
    Picture(60, 30, 20, 20, PHOTOGRAPH, "a lesion"),
)
DRAWING = Drawing("d", "A <title>", "what it shows", 100, 100, MARKS)


def test_a_file_is_sound_xml_with_its_own_colours() -> None:
    root = ElementTree.fromstring(svg.as_file(DRAWING).split("\n", 1)[1])
    text = svg.as_file(DRAWING)
    assert [child.tag.rpartition("}")[2] for child in root][:3] == ["title", "desc", "style"]
    assert "&lt;script&gt;$x$" in text
    assert LIGHT["s1"] in text
    assert "<title>a &lt;b&gt; &amp; c</title>" in text


def test_inline_it_follows_the_page() -> None:
    text = svg.inline(DRAWING)
    assert "#" not in text.replace("&#", "")
    assert 'data-tip="a &lt;b&gt; &amp; c"' in text
    assert 'class="k-s1"' in text
    assert 'aria-label="what it shows"' in text


def test_it_is_painted(tmp_path: Path) -> None:
    painting.paint(tmp_path / "a.png", DRAWING)
    painting.paint(tmp_path / "b.png", DRAWING)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert image.shape == (200, 200, 3)

    def near(x: int, y: int, colour: str) -> bool:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return bool(np.abs(image[2 * y, 2 * x].astype(int) - wanted).max() < 40)

    assert near(50, 10, LIGHT["s1"])
    assert near(30, 70, LIGHT["accent"])
    assert near(70, 70, LIGHT["s2"])
    assert near(70, 40, "#c81e1e")
    assert near(95, 95, "#ffffff")


def test_both_themes_have_every_role() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert {drawing.series_of(i)[0] for i in range(20)} == set(drawing.SERIES)
    assert drawing.series_of(3) != drawing.series_of(3 + drawing.NUM_SERIES)


def test_long_names_keep_both_ends() -> None:
    assert drawing.in_width("short", 12, 200) == "short"
    short = drawing.in_width("edgenext_xx_small-balanced-fold-0-seed-1", 12, 100)
    assert short.startswith("edgene")
    assert short.endswith("seed-1")
    assert "…" in short


def test_numbers_are_short() -> None:
    assert [svg.short(value) for value in (1.0, 1.26, -0.01, 100)] == ["1", "1.3", "0", "100"]

"""Tables, notes and pictures of the page: escaped, sortable by their values, never endless."""

from lesionforge.reporting import blocks
from lesionforge.reporting.blocks import Image, Table


def test_a_table_sorts_by_values_and_shows_words() -> None:
    first = {"name": "<b>", "value": 0.12345, "low": 0.1, "high": None}
    rows = [first, {"name": "b", "value": -0.5, "low": -1.0, "high": 0.0}]
    titles = {"name": "name", "value": "pAUC (95 % interval)"}
    html = blocks.table(Table("t", "A & B", rows, titles, intervals={"value": ("low", "high")}))
    assert "A &amp; B" in html
    assert '<td class=s>&lt;b&gt;</td><td class="n" data-v="0.12345">0.123</td>' in html
    assert 'data-v="-0.5">−0.500 <span class=q>(−1.000 to 0.000)</span>' in html
    assert "<button>pAUC (95\N{NO-BREAK SPACE}% interval)</button>" in html
    assert blocks.table(Table("t", "none", [], {"name": "name"})) == ""


def test_a_long_table_ends_and_says_so() -> None:
    rows = [{"i": i} for i in range(blocks.MOST_ROWS + 7)]
    html = blocks.table(Table("many", "Many", rows, {"i": "i"}))
    assert html.count("<tr>") == blocks.MOST_ROWS + 1
    assert "7 more rows are in tables/many.csv." in html


def test_text_is_text() -> None:
    assert (
        blocks.text("a < b, run `lesionforge x`", "data")
        == "<p class=data>a &lt; b, run <code>lesionforge x</code></p>"
    )
    assert "&lt;script&gt;" in blocks.code("<script>")
    html = blocks.images([Image(b"\x89PNG", 'a "quote"', mark="dropped <x>")])
    assert "data:image/png;base64,iVBORw==" in html
    assert 'alt="a &quot;quote&quot;"' in html
    assert '<span class="badge dropped">dropped &lt;x&gt;</span>' in html
    assert blocks.facts([("a", ""), ("b", "<c>")]) == "<dl class=facts><dt>b</dt><dd>&lt;c&gt;</dd></dl>"

"""One table as CSV, Markdown and LaTeX: nothing that a name holds can break the file."""

import re
from pathlib import Path

import polars as pl
import pytest

from lesionforge import tables
from lesionforge.reporting import table_files
from lesionforge.reporting.table_files import cell, in_latex, in_markdown, p_value, shown, with_interval

NASTY = (
    "a|b", "edgenext_xx_small", "50 % & more", "$x^2$", "~{\\} #1", "<script>", "Müller – São Paulo", "≥ 80 % ± 2 µm",
    "two\nlines\tand\x07 a bell", '"quoted" `code` *bold*', "[1] first", "皮膚", "&lt; is no tag", "\\\\ \\end{table}",
)  # fmt: skip
TABLE = pl.DataFrame(
    {
        tables.MODEL: ["resnet", "edgenext_xx_small"],
        tables.ESTIMATE: [0.0961, None],
        tables.LOW: [0.0624, None],
        tables.HIGH: [0.1489, None],
        tables.P_VALUE: [0.00001, 0.25],
        tables.NUM_IMAGES: [1581, 12],
        "note": ["a|b", None],
    }
)


def markdown_cells(line: str) -> list[str]:
    """The cells of a row as GitHub splits it, marks taken away again."""
    parts = re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
    return [re.sub(r"\\([\\|`*_{}\[\]<>#~$])", r"\1", part.strip()).replace("&amp;", "&") for part in parts]


def require_sound_latex(text: str) -> list[list[str]]:
    """Walk the file as TeX's eyes do: braces pair up, environments close, only known commands; gives rows of cells."""
    text = re.sub(r"(?m)^%.*\n", "", text)
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    words = {match for word in table_files.LATEX_WORDS.values() for match in re.findall(r"\\([A-Za-z]+)", word)}
    own = {"begin", "end", "centering", "small", "caption", "label", "toprule", "midrule", "bottomrule", "par"}
    own |= {"smallskip", "footnotesize", "endhead", "endfirsthead", "endfoot", "begingroup", "endgroup"}
    assert commands <= words | own | {"raggedright", "arraybackslash", "linewidth"}
    depth, in_maths, at, open_environments, cells, rows = 0, False, 0, [], [""], []
    while at < len(text):
        letter = text[at]
        if text.startswith("\\\\", at):
            rows.append(cells)
            cells, at = [""], at + 2
            continue
        if letter == "\\":
            if found := re.match(r"\\(begin|end)\{(\w+)\}", text[at:]):
                if found[1] == "begin":
                    open_environments.append(found[2])
                else:
                    assert open_environments.pop() == found[2]
                at += found.end()
                continue
            at += 2
            continue
        assert letter not in ("#%_" if in_maths else "#%_^"), text[at - 20 : at + 20]
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
        in_maths ^= letter == "$"
        if letter == "&":
            cells.append("")
        else:
            cells[-1] += letter
        at += 1
    assert (depth, in_maths, open_environments) == (0, False, [])
    return rows


def test_three_files_and_what_stands_in_them(tmp_path: Path) -> None:
    titles = {tables.MODEL: "Model", tables.ESTIMATE: "pAUC (95 %)", tables.P_VALUE: "p", tables.NUM_IMAGES: "Images"}
    paths = table_files.write_table_files(tmp_path, "results", TABLE, "Results & more", titles, notes=["28 of 1,581"])
    assert [path.name for path in paths] == ["results.csv", "results.md", "results.tex"]
    assert pl.read_csv(paths[0]).equals(TABLE)
    assert paths[1].read_text() == (
        "**Results &amp; more**\n\n"
        "| Model | pAUC (95 %) | p | Images |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| resnet | 0.096 (0.062 to 0.149) | \\< 0.001 | 1,581 |\n"
        "| edgenext\\_xx\\_small | - | 0.250 | 12 |\n\n"
        "- 28 of 1,581\n"
    )
    latex = paths[2].read_text()
    assert r"\caption{Results \& more}" in latex
    assert r"\label{tab:results}" in latex
    assert r"{}resnet & 0.096 (0.062 to 0.149) & \textless{} 0.001 & 1,581 \\" in latex
    assert [len(row) for row in require_sound_latex(latex)] == [4, 4, 4]


def test_nasty_words_break_no_file(tmp_path: Path) -> None:
    rows = [{"_name|": word, "number_of": number} for number, word in enumerate(NASTY)]
    paths = table_files.write_table_files(tmp_path, "nasty_{x}", rows, NASTY[4], notes=NASTY)
    assert pl.read_csv(paths[0])["_name|"].to_list() == list(NASTY)
    lines = [line for line in paths[1].read_text().splitlines() if line.startswith("|")]
    plain = [table_files.one_line(word) for word in NASTY]
    assert [markdown_cells(line) for line in lines[2:]] == [[word, str(n)] for n, word in enumerate(plain)]
    found = require_sound_latex(paths[2].read_text())
    assert [len(row) for row in found] == [2] * (len(NASTY) + 1)
    assert r"\label{tab:nasty-x-}" in paths[2].read_text()


def test_long_words_are_broken_into_lines_that_fit_the_page(tmp_path: Path) -> None:
    rows = [{"item": str(n), "asked": "what is asked " * 4, "answer": "many words " * 40, "p": 0.5} for n in range(5)]
    text = table_files.write_table_files(tmp_path, "words", rows, "Words")[2].read_text()
    widths = [float(width) for width in re.findall(r"p\{([0-9.]+)\\linewidth\}", text)]
    assert len(widths) == 2
    assert widths[0] < widths[1]
    assert sum(widths) < 1
    assert {len(row) for row in require_sound_latex(text)} == {4}
    assert "array" in text.splitlines()[0]
    assert "p{" not in table_files.write_table_files(tmp_path, "short", rows[:1], "A", {"item": "item"})[2].read_text()


def test_a_long_table_breaks_over_pages(tmp_path: Path) -> None:
    rows = [{"number": n, "word": "a & b"} for n in range(60)]
    text = table_files.write_table_files(tmp_path, "long", rows, "Long", notes=["a note"])[2].read_text()
    assert [len(row) for row in require_sound_latex(text)] == [1, *[2] * 62]  # caption, two heads, 60 rows
    for word in ("longtable", "endfirsthead", "endfoot", r"\caption{Long}\label{tab:long} \\"):
        assert word in text
    assert text.index("endfoot") < text.index("{}59")


def test_the_walk_over_latex_can_fail() -> None:
    for wrong in ("a_b", "{", "50 %", r"\begin{a}\end{b}", r"\input{x}", "$", "x^2"):
        with pytest.raises(AssertionError):
            require_sound_latex(wrong)


def test_single_letters() -> None:
    assert in_latex("a_b & 5 % ≥ x²") == r"a\_b \& 5 \% $\geq$ x$^{2}$"
    assert in_latex("two\nlines") == "two lines"
    assert in_latex("c\\d") == r"c\textbackslash{}d"
    assert in_markdown("a|b_c <b> & \\") == "a\\|b\\_c \\<b\\> &amp; \\\\"


def test_cells_in_words() -> None:
    assert [cell(v) for v in (None, True, 1581, 0.09649, float("nan"), -0.0001, [0, 1], "x")] == [
        "-", "yes", "1,581", "0.096", "-", "0.000", "0, 1", "x",
    ]  # fmt: skip
    assert with_interval(0.5, None, None) == "0.500"
    assert with_interval(12.34, 5.0, 20.0, 1) == "12.3 (5.0 to 20.0)"
    assert (p_value(None), p_value(0.0009), p_value(0.04)) == ("-", "< 0.001", "0.040")


def test_columns_default_to_all_but_the_ends_of_intervals() -> None:
    found = shown(TABLE)
    assert found.titles == [tables.MODEL, tables.ESTIMATE, tables.P_VALUE, tables.NUM_IMAGES, "note"]
    assert found.is_number == [False, True, True, True, False]
    with pytest.raises(ValueError, match="that the table lacks"):
        shown(TABLE, {"nowhere": "Nowhere"})


def test_a_table_without_rows(tmp_path: Path) -> None:
    paths = table_files.write_table_files(tmp_path, "none", TABLE.clear(), "Nothing")
    assert len(require_sound_latex(paths[2].read_text())) == 1
    assert pl.read_csv(paths[0]).is_empty()

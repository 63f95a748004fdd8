"""The parts of a report's page: its style, tables, pictures, and numbers in words."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lesionforge import run
from lesionforge.data import pixels

PHOTOGRAPHS = (run.PAIRS, run.SHOWN)  # taken into the page as JPEG
PHOTOGRAPH_QUALITY = 88

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem 3rem; background: #fff; color: #222;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.55rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; padding-bottom: .2rem; border-bottom: 1px solid #ddd; }
p { margin: .4rem 0; max-width: 52rem; }
.muted { color: #666; font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.card { border: 1px solid #ddd; border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.4rem; line-height: 1.3; }
.card span { color: #555; font-size: .82rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; margin: .5rem 0; }
th, td { text-align: left; padding: .28rem .6rem .28rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
th { color: #555; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { background: #eee; height: .6rem; min-width: 6rem; border-radius: .2rem; overflow: hidden; margin-top: .4rem; }
.bar i { display: block; height: 100%; background: #b2182b; }
.warning { background: #fff4e5; border-left: 4px solid #e08a00; padding: .5rem .8rem; margin: .8rem 0; }
.mark { color: #a04000; font-weight: 600; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; align-items: start; }
.two > * { min-width: 0; }
.scroll { overflow-x: auto; }
@page { margin: 12mm; }
@media print {
  html { font-size: 10px; } body { max-width: none; padding: 0; font-size: 8pt; }
  h1 { font-size: 14pt; } h2 { font-size: 10pt; margin-top: 1rem; break-after: avoid; }
  th, td { padding: .1rem .4rem .1rem 0; }
  .scroll { overflow: visible; } .bar { min-width: 3rem; }
  .cards { grid-template-columns: repeat(4, 1fr); } .card b { font-size: 12pt; }
  .two { grid-template-columns: 3fr 2fr; } img.chart { max-height: 45mm; }
  img, tr, .card { break-inside: avoid; }
}
"""


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a heading that begins with # is of a column of numbers. Cells are HTML."""
    is_number = [name.startswith("#") for name in header]
    heads = "".join(
        f"<th{' class=number' if right else ''}>{escape(name.lstrip('#'))}</th>"
        for name, right in zip(header, is_number, strict=True)
    )
    lines = "".join(
        "<tr>" + "".join(
            f"<td{' class=number' if right and 'not computed' not in cell else ''}>{cell}</td>"
            for cell, right in zip(row, is_number, strict=True)
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def image(path: Path, alt: str) -> str:
    """A picture that lies in the page itself; nothing where there is none."""
    if not path.is_file():
        return ""
    data = path.read_bytes()
    if path.name in PHOTOGRAPHS:
        data = pixels.encode_jpeg(pixels.decode(data), PHOTOGRAPH_QUALITY)
    kind = "jpeg" if path.name in PHOTOGRAPHS else "png"
    shape = "" if path.name in PHOTOGRAPHS else ' class="chart"'
    return f'<img{shape} alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def of_count(share: Mapping[str, Any]) -> str:
    return f"{share['count']:,} of {share['total']:,} ({percent(share['estimate'])})"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{number(100 * value)}\N{NO-BREAK SPACE}%"


def number(value: float | None) -> str:
    """Three digits, never as a power of ten; what lies near 0 has six decimals."""
    if value is None:
        return "–"
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.6f}"


def interval(found: Mapping[str, Any], shown: Any, between: str = " to ") -> str:
    return "no interval" if found["low"] is None else f"{shown(found['low'])}{between}{shown(found['high'])}"


def with_interval(estimate: float | None, low: float | None, high: float | None, shown: Any = number) -> str:
    if estimate is None:
        return "–"
    return shown(estimate) if low is None else f"{shown(estimate)} [{shown(low)}, {shown(high)}]"

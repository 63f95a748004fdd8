"""The page around the sections: one HTML file that holds its style, script and pictures, and may ask for nothing."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lesionforge.reporting import svg
from lesionforge.reporting.blocks import Section
from lesionforge.reporting.drawing import DARK, LIGHT

HERE = Path(__file__).parent
# Enforced by the browser: whatever the page holds, it cannot fetch.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
NO_PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def page(title: str, kicker: str, sections: Sequence[Section], footer: str) -> str:
    """The whole page.

    Args:
        title: text.
        kicker, footer: HTML.
    """
    links = "".join(f'<li><a href="#{one.anchor}">{escape(one.short or one.title)}</a></li>' for one in sections)
    bodies = "".join(
        f'<section id="{one.anchor}"{" class=first" if i == 0 else ""}>'
        + (f"<h2>{escape(one.title)}</h2>" if i else "")
        + f"{one.html}</section>\n"
        for i, one in enumerate(sections)
    )
    script = (HERE / "script.js").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="generator" content="lesionforge">'
        f'<link rel="icon" href="data:,">\n<style>{style()}</style></head>\n<body><div class="layout">'
        f'<nav aria-label="Sections"><a class="brand" href="#summary">lesionforge<small>study report</small></a>'
        f'<ol>{links}</ol><button class="theme" type="button">Dark</button></nav>\n'
        f'<main><header><p class="kicker">{kicker}</p>'
        f"<h1>{escape(title)}</h1></header>\n{bodies}<footer>{footer}</footer></main></div>\n"
        f'<dialog aria-label="Enlarged picture"><img alt="" src="{NO_PICTURE}"><p></p></dialog>'
        f"\n<script>{script}</script>\n</body></html>\n"
    )


def style() -> str:
    """The style sheet with the colours of both themes and the rules of the figures."""
    dark = variables(DARK) + "color-scheme:dark;--warnpaper:#2c2117;--quiet:#191e23;--good:#7fd6b4;--goodpaper:#16302a;"
    roles = {role: f"var(--{role})" for role in LIGHT}
    return (
        (HERE / "style.css").read_text()
        + f":root{{{variables({role: colour for role, colour in LIGHT.items() if role.startswith('s')})}}}\n"
        + f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        + f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n{svg.rules(roles)}"
    )


def variables(colours: dict[str, str]) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in colours.items())

"""Sphinx's configuration: MyST Markdown, the furo theme, formulas as MathML. Nothing is fetched to build or read."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "ext"))

project = "lesionforge"
author = "the lesionforge authors"
copyright = "the lesionforge authors, Apache-2.0. Research software, not a medical device."

extensions = ["myst_parser", "long_commands", "mathml", "recipe_tables"]  # the last three lie in ext/
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3  # [text](page.md#a-heading) works as it does on GitHub
exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False  # "--out" stays "--out"

html_theme = "furo"
html_title = "lesionforge"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "footer_icons": [],
    "light_css_variables": {"color-brand-primary": "#a14a1b", "color-brand-content": "#a14a1b"},
    "dark_css_variables": {"color-brand-primary": "#f0a37c", "color-brand-content": "#f0a37c"},
}
pygments_style, pygments_dark_style = "friendly", "monokai"

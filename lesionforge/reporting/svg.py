"""A drawing as SVG: for the page, where its colours follow the page's, and as a file of its own."""

import base64
from html import escape

from lesionforge.reporting.drawing import LIGHT, PAPER, Dot, Drawing, Label, Mark, Path, Picture

FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif"


def rules(names: dict[str, str]) -> str:
    """CSS of the marks; `names` gives each role its colour, or the variable that holds it."""
    strokes = "".join(
        f".plot .k-{role}{{stroke:{colour}}}.plot .f-{role}{{fill:{colour}}}" for role, colour in names.items()
    )
    return (
        f".plot path{{fill:none;stroke-linejoin:round;stroke-linecap:round}}{strokes}"
        f"svg.plot text{{font-family:{FONTS};font-variant-numeric:tabular-nums}}svg.plot .b{{font-weight:600}}"
        "svg.plot .m{text-anchor:middle}svg.plot .e{text-anchor:end}"
    )


def as_file(drawing: Drawing) -> str:
    """An SVG file on white paper."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {short(drawing.width)} '
        f'{short(drawing.height)}" width="{short(drawing.width)}" height="{short(drawing.height)}">'
        f"<title>{escape(drawing.title)}</title><desc>{escape(drawing.alt)}</desc><style>{rules(LIGHT)}</style>"
        f'<rect width="100%" height="100%" fill="{LIGHT[PAPER]}"/>{marks_of(drawing, titles=True)}</svg>\n'
    )


def inline(drawing: Drawing) -> str:
    """The same for the page, whose style holds the rules; what it tells on pointing is in data-tip."""
    return (
        f'<svg class="plot" role="img" aria-label="{escape(drawing.alt)}" viewBox="0 0 {short(drawing.width)} '
        f'{short(drawing.height)}" style="width:{short(drawing.width)}px">{marks_of(drawing, titles=False)}</svg>'
    )


def marks_of(drawing: Drawing, titles: bool) -> str:
    return "".join(mark_of(mark, titles) for mark in drawing.marks)


def mark_of(mark: Mark, titles: bool) -> str:
    if isinstance(mark, Label):
        return label_of(mark)
    tip = escape(mark.tip)
    data = f' data-tip="{tip}"' if tip and not titles else ""
    inside = f"<title>{tip}</title>" if tip and titles else ""
    if isinstance(mark, Path):
        return element("path", path_attributes(mark) + data, inside)
    if isinstance(mark, Dot):
        fill = f"f-{mark.fill or PAPER}"
        place = f' cx="{short(mark.x)}" cy="{short(mark.y)}" r="{short(mark.radius)}" stroke-width="1.5"'
        return element("circle", f' class="{fill} k-{mark.stroke}"{place}{data}', inside)
    return element("image", picture_attributes(mark) + data, inside)


def element(name: str, attributes: str, inside: str) -> str:
    return f"<{name}{attributes}>{inside}</{name}>" if inside else f"<{name}{attributes}/>"


def path_attributes(mark: Path) -> str:
    classes = [f"k-{mark.stroke}"] if mark.stroke else []
    classes += [f"f-{mark.fill}"] if mark.fill else []
    text = f' class="{" ".join(classes)}" d="{line_of(mark)}"'
    if mark.fill:
        text += f' style="fill-opacity:{short(mark.opacity, 2)}"'
    if mark.stroke:
        text += f' stroke-width="{short(mark.width)}"'
        if mark.opacity < 1 and not mark.fill:
            text += f' stroke-opacity="{short(mark.opacity, 2)}"'
    return text + (f' stroke-dasharray="{mark.dash}"' if mark.dash else "")


def line_of(mark: Path) -> str:
    places = [f"{short(x)} {short(y)}" for x, y in mark.points]
    return "M" + "L".join(places) + ("Z" if mark.fill else "")


def picture_attributes(mark: Picture) -> str:
    kind = "png" if mark.data.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(mark.data).decode()
    return (
        f' x="{short(mark.x)}" y="{short(mark.y)}" width="{short(mark.width)}" height="{short(mark.height)}" '
        f'preserveAspectRatio="xMidYMid slice" href="data:image/{kind};base64,{data}"'
    )


def label_of(mark: Label) -> str:
    classes = [f"f-{mark.colour}"]
    classes += [{"middle": "m", "end": "e"}[mark.anchor]] if mark.anchor != "start" else []
    classes += ["b"] if mark.bold else []
    turned = f' transform="rotate(-90 {short(mark.x)} {short(mark.y)})"' if mark.upward else ""
    return (
        f'<text class="{" ".join(classes)}" x="{short(mark.x)}" y="{short(mark.y)}" '
        f'font-size="{short(mark.size)}"{turned}>{escape(mark.text)}</text>'
    )


def short(value: float, digits: int = 1) -> str:
    """A number with one decimal at most; -0.0 is 0."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return "0" if text in ("-0", "") else text

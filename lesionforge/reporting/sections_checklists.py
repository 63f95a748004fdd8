"""Section of the checklists: items of CLAIM and CLEAR Derm that the study's files fill, and those that they cannot."""

from html import escape

from lesionforge.reporting import blocks, checklists
from lesionforge.reporting.blocks import Section, Table
from lesionforge.reporting.checklists import Facts, Item

STATES = {checklists.FILLED: "filled", checklists.AUTHORS: "authors", checklists.NOT_APPLICABLE: "not"}


def checklist(facts: Facts) -> Section:
    """Both lists, folded, with their counts."""
    html = [blocks.text("What the study's own files and the way lesionforge works answer is filled in; the rest is "
                       "for the authors. Some answers assume the usual: images that are read from files were collected "
                       "before, so a study is called retrospective. Check each.")]  # fmt: skip
    found = []
    for name, title, items, note in (
        ("claim", "CLAIM, artificial intelligence in medical imaging", checklists.claim(facts), checklists.CLAIM_NOTE),
        ("clear-derm", "CLEAR Derm, image-based artificial intelligence in dermatology", checklists.clear_derm(facts),
         checklists.CLEAR_DERM_NOTE),
    ):  # fmt: skip
        html.append(
            blocks.details(f"{title}: {checklists.in_words(items)}", as_html(items) + blocks.text(note, "data"))
        )
        titles = {
            "number": "item",
            "section": "section",
            "asked": "what is asked",
            "state": "state",
            "answer": "answer",
        }
        rows = [
            {"number": i.number, "section": i.section, "asked": i.item, "state": i.state, "answer": i.text}
            for i in items
        ]
        found.append(Table(name, title, rows, titles, notes=[note]))
    return Section("checklists", "Checklists", "".join(html), (), found)


def as_html(items: list[Item]) -> str:
    lines = []
    section = ""
    for item in items:
        if item.section != section:
            section = item.section
            lines.append(f'<tr class=head><th colspan=3 scope="rowgroup">{escape(section)}</th></tr>')
        lines.append(
            f"<tr><td class=s>{escape(item.number)}</td><td><b>{escape(item.item)}</b><br>{escape(item.text)}</td>"
            f'<td class="state"><span class="badge {STATES[item.state]}">{escape(item.state)}</span></td></tr>'
        )
    return f'<div class="scroll"><table class="checklist"><tbody>{"".join(lines)}</tbody></table></div>'

"""The report in a real browser: no error, no request, tables sort, pictures load, dark and narrow and printed; and a
hundred runs in time."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import headless_chromium
import pytest
from headless_chromium import Page
from report_studies import write_study

from lesionforge import run
from lesionforge.reporting.report import ReportConfig, report

SECONDS, MEGABYTES = 20, 15  # for a hundred runs
SECONDS_OF_CPU = SECONDS  # what a machine with nothing else to do would take


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if headless_chromium.find() is None:
        pytest.skip(f"none of {', '.join(headless_chromium.NAMES)} is installed")
    with headless_chromium.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lesionforge.reporting.painting.paint", lambda *_: None)
        study = write_study(tmp_path_factory.mktemp("study") / "s")
        report(ReportConfig(study=study))
    return study / "report" / run.REPORT


@pytest.mark.browser
def test_it_opens_without_error_or_request(page: Page, html: Path) -> None:
    page.events.clear()
    page.open(html)
    page.ask("new Promise(done => setTimeout(done, 300))")
    assert page.trouble() == []
    assert set(page.requests()) == {html.resolve().as_uri()}
    assert page.ask("document.title") == "A small study"
    assert page.ask("document.documentElement.scrollWidth") <= 1280


@pytest.mark.browser
def test_every_picture_loads(page: Page, html: Path) -> None:
    page.open(html)
    page.ask("document.querySelectorAll('img').forEach(one => { one.loading = 'eager'; })")
    page.ask("Promise.all([...document.images].filter(one => !one.complete).map(one => one.decode()))")
    assert page.ask("document.images.length") > 40
    assert page.ask("[...document.images].filter(one => !one.naturalWidth).length") == 0
    assert page.ask("document.querySelectorAll('svg.plot').length") >= 8


@pytest.mark.browser
def test_tables_sort(page: Page, html: Path) -> None:
    page.open(html)
    column = "[...document.querySelectorAll('#tab-results tbody tr')].map(row => row.cells[{}].textContent)"
    click = "document.querySelectorAll('#tab-results thead button')[{}].click()"
    before = page.ask(column.format(2))
    page.ask(click.format(2))
    falling = page.ask(column.format(2))
    page.ask(click.format(2))
    rising = page.ask(column.format(2))
    assert sorted(before) == sorted(falling)
    assert rising == falling[::-1] == sorted(before)
    assert page.ask("document.querySelector('#tab-results th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    page.ask(click.format(0))
    models = page.ask(column.format(0))
    assert models == sorted(models)
    page.ask(click.format(3))  # differences: the references have none and stay last, whatever the order
    assert page.ask(column.format(3))[-2:] == ["–", "–"]
    page.ask(click.format(3))
    assert page.ask(column.format(3))[-2:] == ["–", "–"]


@pytest.mark.browser
def test_a_curve_says_what_it_is(page: Page, html: Path) -> None:
    page.open(html)
    page.ask("document.querySelector('#fig-roc').scrollIntoView({behavior: 'instant', block: 'center'})")
    place = page.ask(
        "(() => { const path = document.querySelector('#fig-roc path[data-tip]');"
        " const point = path.getPointAtLength(path.getTotalLength() * 0.4); "
        " const at = point.matrixTransform(path.getScreenCTM()); return [at.x, at.y]; })()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    assert "pAUC" in page.ask("document.querySelector('#tip').textContent") or "mean of" in page.ask(
        "document.querySelector('#tip').textContent"
    )
    assert page.ask("document.querySelector('#tip').hidden") is False
    assert page.ask("document.querySelectorAll('#fig-roc .on').length") >= 1


@pytest.mark.browser
def test_a_picture_is_enlarged(page: Page, html: Path) -> None:
    page.open(html)
    page.ask("document.querySelector('#failures .zoom').click()")
    assert page.ask("document.querySelector('dialog').open") is True
    assert "of benign lesions are scored above it" in page.ask("document.querySelector('dialog p').textContent")
    page.ask("document.querySelector('dialog').click()")
    assert page.ask("document.querySelector('dialog').open") is False


@pytest.mark.browser
def test_dark_light_and_narrow(page: Page, html: Path, tmp_path: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    stroke = "getComputedStyle(document.querySelector('#fig-overview .f-ink')).fill"
    page.open(html, scheme="light")
    light = page.ask(colour), page.ask(stroke)
    page.open(html, scheme="dark")
    dark = page.ask(colour), page.ask(stroke)
    assert light[0] == "rgb(255, 255, 255)"
    assert len({*light, *dark}) == 4
    page.ask("document.querySelector('.theme').click()")
    assert (page.ask(colour), page.ask(stroke)) == light
    page.ask("document.querySelector('.theme').click()")
    page.open(html, width=390, height=800)
    assert page.ask("document.documentElement.scrollWidth") <= 390, "wide things scroll inside themselves"
    page.picture(tmp_path / "narrow.png")
    assert (tmp_path / "narrow.png").stat().st_size > 10_000


@pytest.mark.browser
def test_it_prints(page: Page, html: Path) -> None:
    page.open(html)
    assert page.as_pdf().startswith(b"%PDF")


@pytest.mark.slow
def test_a_hundred_runs_in_time(tmp_path: Path) -> None:
    """100 runs of 1,581 lesions: under 20 s of this process, under 15 MB; a busy machine is not the report's fault."""
    models = ("edgenext", "resnet", "swin", "convnext", "vit")
    study = write_study(tmp_path / "s", models, ("0x", "1x", "3x", "oversampled"), tuple(range(5)), 1600, 120)
    started, before = time.monotonic(), os.times()
    report(ReportConfig(study=study))
    spent = os.times()
    seconds = spent.user + spent.system - before.user - before.system
    size = (study / "report" / run.REPORT).stat().st_size / 1e6
    print(f"100 runs: {seconds:.1f} s of CPU, {time.monotonic() - started:.1f} s on the clock, {size:.1f} MB")
    assert seconds < SECONDS_OF_CPU
    assert size < MEGABYTES
    page = (study / "report" / run.REPORT).read_text()
    assert "100 runs: 5 models × 4 training distributions × 5 seeds" in page

"""The report is one file that a browser opens without an error and without asking for anything."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from candidate_stores import spotted, write_candidates, write_real

from lesionforge import run
from lesionforge.auditing import sheets
from lesionforge.auditing.audit import AuditConfig, audit
from lesionforge.auditing.audit_report import sets_section, shortcut_card, times_real
from lesionforge.auditing.audit_sets import ALL, KEPT
from lesionforge.auditing.audit_shortcut import BEFORE
from lesionforge.auditing.audit_shortcut import KEPT as SHORTCUT_KEPT
from lesionforge.auditing.rates import ratio

PROBE = """
<script>
addEventListener("load", () => {
  const asked = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:"));
  const broken = [...document.images].filter(image => !image.naturalWidth);
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = `asked ${asked.length} broken ${broken.length} of ${document.images.length} wide ${wide}`;
});
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    store, split = write_real(folder / "real", 60)
    rng = np.random.default_rng(99)
    images = [spotted(rng) for _ in range(10)] + [np.zeros((50, 50, 3), np.uint8)]
    write_candidates(folder / "a & b <c>", images, store, split)
    audit(
        AuditConfig.model_validate(
            {
                "candidates": folder / "a & b <c>",
                "out": folder / "out",
                "data": {"store": store, "split": split},
                "artefacts": {"filters": ["contrast"]},
                "features": {"name": "test_vit", "weights": "random", "image_size": 32},
                "sets": {"shortcut": False},
            }
        )
    )
    return folder / "out" / run.REPORT


def test_it_holds_everything_and_says_what_must_be_said(report: Path) -> None:
    page = report.read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "url(" not in page
    assert "research software, not a medical device" in page
    assert "shows real training lesions" in page
    assert "CC-BY" in page
    assert "A hospital &lt;of ours&gt;" in page
    assert "a &amp; b &lt;c&gt;" in page
    facts = json.loads((report.parent / run.AUDIT).read_text())
    assert f"{facts['num_kept']:,} of {facts['num_candidates']:,}" in page
    assert f"{facts['copies']['threshold']:.3g}" in page


def test_sets_are_measured_beside_real_ones_and_random_features_are_labelled(report: Path) -> None:
    folder = report.parent
    scores = pl.read_csv(folder / run.SETS)
    assert set(scores["set"]) == {"kept", "all candidates"}
    kid = scores.filter((pl.col("score") == "kid_held_out") & (pl.col("set") == "kept")).row(0, named=True)
    assert kid["estimate"] is not None
    assert kid["baseline"] is not None
    facts = json.loads((folder / run.AUDIT).read_text())
    assert facts["features"]["is_random"]
    assert any("RANDOM WEIGHTS" in warning for warning in facts["warnings"])
    assert "RANDOM WEIGHTS" in report.read_text()
    subtypes = pl.read_csv(folder / run.SUBTYPES)
    assert set(subtypes["subtype"]) == {"Melanoma Invasive", "Basal cell carcinoma"}
    assert subtypes.filter(pl.col("set") == "kept")["num_real"].sum() == 10


def test_a_ratio_of_no_images_is_said_in_words() -> None:
    words = times_real(ratio(0, 24, 0, 60))
    assert "no ratio" in words
    assert " times the real rate" not in words
    assert times_real(ratio(20, 100, 10, 1000)).startswith("19.4 times the real rate (")
    assert "rate of no images" in times_real(ratio(3, 24, 0, 0))


def test_real_images_stand_beside_what_is_kept_even_where_that_is_too_little() -> None:
    place = {"class": "malignant", "score": "kid", "better": "lower", "low": None, "high": None}
    rows = [
        place | {"set": ALL, "num_images": 9, "estimate": 0.5, "baseline": 0.125, "reason": None},
        place | {"set": KEPT, "num_images": 1, "estimate": None, "baseline": None, "reason": "1 image"},
    ]
    scores = pl.DataFrame([row | {"baseline_low": None, "baseline_high": None} for row in rows])
    section = sets_section({"features": {}}, scores)
    assert "not computed: 1 image" in section
    assert "<td class=number>0.125</td><td>lower</td>" in section


def test_the_shortcut_card_is_of_the_malignant_that_are_kept() -> None:
    rows = [{"class": name, "format": kind, "estimate": estimate, "reason": None if estimate else "few"}
            for name, kind, estimate in (("malignant", BEFORE, 0.9), ("malignant", SHORTCUT_KEPT, 0.7),
                                         ("benign", SHORTCUT_KEPT, 0.6))]  # fmt: skip
    assert shortcut_card(pl.DataFrame(rows))[0] == "0.70"
    value, words = shortcut_card(pl.DataFrame([rows[0], rows[1] | {"estimate": None, "reason": "few"}, rows[2]]))
    assert (value, "was not computed: few" in words) == ("–", True)
    assert "no malignant candidates" in shortcut_card(pl.DataFrame(rows[2:]))[1]


def test_a_verdict_stands_over_the_candidate() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    pair = sheets.Pair(image, image, "SYN_1", "ISIC_2", 0.987654, "near-copy")
    assert sheets.caption_of(pair) == "SYN_1\nscore 0.988\ndropped: near-copy"
    assert sheets.caption_of(pair._replace(reason=None)).endswith("kept")


@pytest.mark.browser
def test_a_browser_opens_it_without_error_or_request(report: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian's package chromium)")
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", f"{PROBE}</body>"))
    answer = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=900,900",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", answer.stdout)
    assert title is not None
    num_images = report.read_text().count("<img ")
    assert num_images == 4
    assert title[1] == f"asked 0 broken 0 of {num_images} wide false"
    assert "CONSOLE" not in answer.stderr

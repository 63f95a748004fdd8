"""The report is one file that a browser opens without an error and without asking for anything."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from candidate_stores import spotted, write_candidates, write_real

from lesionforge import run
from lesionforge.auditing.audit import AuditConfig, audit

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
                "features": {"name": "mobilenetv2_100", "weights": "random", "image_size": 32},
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

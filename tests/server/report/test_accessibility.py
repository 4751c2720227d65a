"""Both reports before an accessibility checker: axe-core in headless Chromium.

`.ci/accessibility` fetches the two; without them the test is skipped.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from wardround.privacy.presentation.html import render_html
from wardround.server.report import Finding, RunReport
from wardround.server.report.document import run_document

REPOSITORY = Path(__file__).resolve().parents[3]
AXE = Path(
    os.environ.get("WARDROUND_AXE", REPOSITORY / ".venv/axe/node_modules/axe-core/axe.min.js")
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=60000", "--timeout=60000",
)  # fmt: skip
CHECK = """
axe.run(document, {resultTypes: ["violations"]}).then(found => {
  const result = document.createElement("pre");
  result.id = "axe-result";
  result.textContent = JSON.stringify({
    violations: found.violations.map(v => ({id: v.id, nodes: v.nodes.map(n => n.html)})),
    passes: found.passes.map(p => p.id),
    width: [document.documentElement.scrollWidth, window.innerWidth],
  });
  document.body.append(result);
});
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser; the test is skipped where it or the checker is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("Chromium is not installed (see .ci/accessibility)")
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (see .ci/accessibility)")
    return browser


def checked(browser: str, page: str, folder: Path, width: int, dark: bool = False) -> Any:
    """Return what axe-core finds on `page`, shown at `width` pixels.

    The page's own security policy would keep the checker out, so it is taken off; in the dark
    theme the preference is replaced by a rule that always holds.
    """
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    if dark:
        page = page.replace("@media (prefers-color-scheme: dark)", "@media screen")
    script = f"<script>{AXE.read_text()}</script><script>{CHECK}</script>"
    path = folder / "page.html"
    path.write_text(page.replace("</body>", script + "</body>"))
    done = subprocess.run(
        [
            browser,
            *QUIET,
            f"--window-size={width},900",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="axe-result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the checker did not finish"
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize(
    ("width", "dark"), [(1360, False), (500, False), (1360, True)], ids=["wide", "narrow", "dark"]
)
def test_axe_finds_nothing(
    chromium: str,
    make_report: Callable[..., RunReport],
    tmp_path: Path,
    width: int,
    dark: bool,
) -> None:
    page = render_html(run_document(make_report("image")))
    found = checked(chromium, page, tmp_path, width, dark)
    assert found["violations"] == []
    assert len(found["passes"]) > 30
    scroll, window = found["width"]
    assert scroll <= window, "the page itself must not scroll sideways"


def test_a_finding_without_a_space_stays_on_a_narrow_page(
    chromium: str, make_report: Callable[..., RunReport], tmp_path: Path
) -> None:
    wrong = Finding("projection", None, "e" * 200, "f" * 200)
    page = render_html(run_document(make_report(verification={"findings": (wrong,)})))
    scroll, window = checked(chromium, page, tmp_path, 500)["width"]
    assert scroll <= window


def test_checker_would_find_something(chromium: str, report: RunReport, tmp_path: Path) -> None:
    """The check is not blind: a page with an unlabelled picture and pale text fails it."""
    page = render_html(run_document(report))
    bad = page.replace("<main", '<img src="data:,"><p style="color:#bbb">pale</p><main', 1)
    found = checked(chromium, bad, tmp_path, 1360)
    assert {"image-alt", "color-contrast"} <= {one["id"] for one in found["violations"]}

"""A real headless browser for the tests: what it says of a page, and how the page looks in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Written into a copy of the page, which itself holds no script: what only a browser that has laid it out can tell.
_MEASURE = """<script>addEventListener("load", () => {
const box = e => { const b = e.getBoundingClientRect(); return [b.width, b.height, b.left, b.right]; };
const told = {
  charts: [...document.querySelectorAll("figure svg")].map(e => [...box(e), e.querySelectorAll("path,rect,circle,line,polyline,polygon").length]),
  texts: [...document.querySelectorAll("figure svg text")].filter(e => {
    const t = e.getBoundingClientRect(), f = e.closest("figure").getBoundingClientRect();
    return t.width && (t.left < f.left - 1 || t.right > f.right + 1); }).map(e => e.textContent),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  unnamed: [...document.querySelectorAll("figure svg")].filter(e => e.getAttribute("role") !== "img" || !e.querySelector("title")).length,
  headings: [...document.querySelectorAll("h1,h2,h3,h4")].map(e => +e.tagName[1]),
};
const note = document.createElement("pre"); note.id = "told"; note.textContent = JSON.stringify(told);
document.body.append(note); });</script>"""

# A window is at least 500 wide, however small a one is asked for: a phone's width is that of a frame.
_FRAME = """<body style="margin:0"><iframe id="page" src="{page}" style="border:0;width:{width}px;height:2400px"
onload="const told = this.contentDocument && this.contentDocument.getElementById('told');
if (told) document.body.append(told.cloneNode(true));"></iframe></body>"""


@dataclass(frozen=True)
class Look:
    """A page as a browser sees it: what it measured, and every line of its console."""

    told: dict[str, Any]
    console: list[str]


def find() -> str | None:
    """The browser's command; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look(page: Path, *, width: int = 1200, dark: bool = False, folder: Path, screenshot: Path | None = None) -> Look:
    """Open the page and measure it; screenshot: where to keep its picture, of the page as it is."""
    copy, frame = folder / f"measured-{page.name}", folder / f"frame-{page.name}"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", _MEASURE + "</body>"), encoding="utf-8")
    frame.write_text(_FRAME.format(page=copy.absolute().as_uri(), width=width), encoding="utf-8")
    found = _run(frame, width, dark, folder, "--dump-dom")
    dom = re.search(r'<pre id="told">(.*?)</pre>', found.stdout, re.DOTALL)
    assert dom is not None, found.stderr[-2000:]
    if screenshot is not None:
        frame.write_text(_FRAME.format(page=page.absolute().as_uri(), width=width), encoding="utf-8")
        _run(frame, width, dark, folder, f"--screenshot={screenshot}")
    lines = [line for line in found.stderr.splitlines() if ":CONSOLE" in line]
    return Look(json.loads(unescape(dom[1])), lines)


def _run(page: Path, width: int, dark: bool, folder: Path, *what: str) -> subprocess.CompletedProcess[str]:
    browser = find()
    assert browser is not None
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--enable-logging=stderr", "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2400",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=3000", *what, page.absolute().as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

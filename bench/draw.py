"""docs/performance.md and its figures, drawn from bench/results/*.json: no number in it is typed by hand.

`python -m bench.draw` writes them; a test compares the page with what this makes of the committed results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.__main__ import GPU_QUESTIONS, QUESTIONS
from bench.harness import RESULTS, SPREAD
from curation.report import Point, Reference, bar_chart, interval, line_chart, number, percent

DOCS = Path(__file__).resolve().parent.parent / "docs"
FAR = 8.0  # a limit so many times as fast as all others would leave nothing of their bars: its figure stands above

Result = Mapping[str, Any]

BESIDE_LAST_TICK = 14  # half of its number: a page lets it stand over the edge, a file cuts it off
_STYLE = """
svg{--card:#fff;--ink:#1d2126;--quiet:#5b636d;--rule:#d9dcdf;--c0:#2563a8;--c1:#c4560d;--c2:#187a5b;--c5:#8a9099}
@media(prefers-color-scheme:dark){svg{--card:#1c2025;--ink:#e4e6e8;--quiet:#a0a8b1;--rule:#373d45;--c0:#6fa8e8;
--c1:#f09a5b;--c2:#5fc9a1;--c5:#7d8590}}
.card{fill:var(--card)}text{font:12px system-ui,sans-serif;fill:var(--ink)}text.quiet,text.ref{fill:var(--quiet)}
.middle{text-anchor:middle}.end{text-anchor:end}.grid{stroke:var(--rule)}.axis,line.ref{stroke:var(--quiet)}
line.ref{stroke-dasharray:4 3}.line{fill:none;stroke:currentColor;stroke-width:1.8}.fill{fill:currentColor}
.hole{fill:var(--card);stroke:currentColor}.area{fill:currentColor;fill-opacity:.15}.ink{color:var(--ink)}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c5{color:var(--c5)}
""".strip().replace("\n", "")
_COLOUR = {"ours": "c0", "peer": "c5", "limit": "c2"}


def read(folder: Path = RESULTS) -> dict[str, Result]:
    """The results that there are, by question, in the order of the bench."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return {name: found[name] for name in (*QUESTIONS, *GPU_QUESTIONS) if name in found}


def draw(results: Mapping[str, Result]) -> dict[str, str]:
    """Path below docs/ -> its content: the page, and a figure for each that it shows."""
    files: dict[str, str] = {}
    parts = [_head(results)]
    for name, result in results.items():
        figures = _figures(name, result)
        files |= {f"figures/{stem}.svg": svg for stem, (_, svg) in figures.items()}
        parts.append(_section(name, result, {stem: title for stem, (title, _) in figures.items()}))
    return {"performance.md": "\n\n".join(parts) + "\n", **files}


# -- the page ----------------------------------------------------------------------------------------------------------


def _head(results: Mapping[str, Result]) -> str:
    lines = [
        "# Performance",
        "Drawn by `bench/draw.py` from `bench/results/`; `make bench` measures anew. Each question is measured within "
        "one run of one machine, peer and limit beside ours, in rounds: only the ratios count. Results are checked for "
        "equality before the clock starts. Bars are medians as multiples of the peer's speed, whiskers the spread: "
        f"{SPREAD}.",
    ]
    missing = [name for name in (*QUESTIONS, *GPU_QUESTIONS) if name not in results]
    if missing:
        lines.append(f"Not measured yet: {', '.join(missing)}.")
    small = [name for name, result in results.items() if result.get("scale") != "full"]
    if small:
        lines.append(f"**Smoke tests, not measurements:** {', '.join(small)}.")
    targets = [(name, target) for name, result in results.items() for target in result["targets"]]
    if targets:
        lines.append("## All figures")
        header = ("figure", "reach", "measured", "reached")
        lines.append(_table(header, [_target_row(target, name) for name, target in targets]))
    return "\n\n".join(lines)


def _section(name: str, result: Result, figures: Mapping[str, str]) -> str:
    parts = [f"## {name.replace('_', ' ')}", f"**{_md(result['question'])}** {_md(result['input'])}."]
    parts += [f"![{_md(title)}](figures/{stem}.svg)" for stem, title in figures.items()]
    header = ("case", "role", "median s", "spread s", "per second", "x peer", "of limit", "repeats")
    parts.append(_table(header, [_case_row(case) for case in result["cases"]]))
    memory = result.get("growth", {}).get("memory", [])
    if memory:
        rows = [[case["case"], *(number(case[part]) for part in memory)] for case in result["cases"]]
        parts.append(_table(("peak", *(part.replace("_", " ") for part in memory)), rows))
    if "profile" in result:
        parts += _profile(result)
    if result["targets"]:
        parts.append(_table(("figure", "reach", "measured", "reached"), [_target_row(t) for t in result["targets"]]))
    parts += _in_the_way(result)
    parts += [f"Equal before timing: {_md(result['checked'])}.", _md(result["note"]), f"Machine: {_machine(result)}."]
    return "\n\n".join(part for part in parts if part)


def _in_the_way(result: Result) -> list[str]:
    """Each figure that isn't reached because the limit itself doesn't reach it on this machine: that this is so."""
    limits = [case for case in result["cases"] if case["role"] == "limit" and case["x_peer"] is not None]
    if not limits:
        return []
    best = max(limits, key=lambda case: case["x_peer"])
    return [
        f"**What stands in the way of {_md(target['figure'])}:** {_md(best['case'])}, the limit, is itself "
        f"{number(best['x_peer'])} {_md(target['unit'])} on this machine."
        for target in result["targets"]
        if target["reached"] is False and target["unit"].startswith("x ") and (target["at_least"] or 0) > best["x_peer"]
    ]


def _profile(result: Result) -> list[str]:
    """What each case's seconds went to, and the three largest of all these by name."""
    parts, beside = result["profile"]["parts"], result["profile"]["beside"]
    cases = [case for case in result["cases"] if any(case.get(part) is not None for part in parts)]
    rows = [[_md(case["case"]), *(number(case.get(name)) for name in (*parts, *beside))] for case in cases]
    whole = sum(case[part] or 0.0 for case in cases for part in parts)
    costs = [(case[part], case["case"], part) for case in cases for part in parts if case.get(part)]
    told = [
        f"{_md(case)}, {_words(part)}: {number(seconds)} s, {percent(seconds / whole)}"
        for seconds, case, part in sorted(costs, reverse=True)[:3]
    ]
    header = ("where the seconds go", *map(_words, (*parts, *beside)))
    return [f"**The three largest costs:** {'; '.join(told)}.", _table(header, rows)]


def _words(name: str) -> str:
    return name.removeprefix("seconds_").replace("_", " ")


def _case_row(case: Mapping[str, Any]) -> list[str]:
    return [
        _md(case["case"]), case["role"], number(case["median_s"]), f"±{number(case['spread'])}",
        f"{number(case['per_second'])} {case['unit']}", number(case["x_peer"]), percent(case["of_limit"]),
        str(case["repeats"]),
    ]  # fmt: skip


def _target_row(target: Mapping[str, Any], question: str = "") -> list[str]:
    signs = {"at_least": "≥", "at_most": "≤"}
    bounds = [f"{sign} {number(target[key])}" for key, sign in signs.items() if target[key] is not None]
    reached = {True: "yes", False: "**no**", None: "not measured"}[target["reached"]]
    figure = _md(target["figure"])
    return [
        f"[{figure}](#{question.replace('_', '-')})" if question else figure,
        f"{' '.join(bounds)} {_md(target['unit'])}",
        f"{number(target['value'])}{' (' + _md(target['note']) + ')' if target['note'] else ''}",
        reached,
    ]


def _machine(result: Result) -> str:
    machine = result["machine"]
    told = [
        f"{machine['cpu']}, {machine['cores']} cores, {number(machine['memory_gib'])} GiB",
        " ".join(machine["flags"]) or "no vector instructions of note",
        *([machine["gpu"]] if machine.get("gpu") else []),
        f"Python {machine['python']}",
        *([f"Java {machine['java']}"] if machine.get("java") else []),
        machine["os"],
        f"load {number(machine['load_at_start'])} at the start",
        *(f"{name} {version}" for name, version in result["versions"].items() if version),
    ]
    return _md("; ".join(told))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _md(text: object) -> str:
    """Text in Markdown: a table's bars and what would become markup are escaped."""
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", str(text))


# -- the figures -------------------------------------------------------------------------------------------------------


def _figures(name: str, result: Result) -> dict[str, tuple[str, str]]:
    """Stem -> (title, SVG)."""
    if "growth" in result:
        return _growth(name, result)
    return _bars(name, result)


def _bars(name: str, result: Result) -> dict[str, tuple[str, str]]:
    """A chart for each peer: what is held against it."""
    cases = [case for case in result["cases"] if case["x_peer"]]
    if not cases:
        return {}
    edge = FAR * max((case["x_peer"] for case in cases if case["role"] != "limit"), default=float("inf"))
    shown = [case for case in cases if case["x_peer"] <= edge]
    points = []
    for case in shown:
        x, share = case["x_peer"], min(0.99, case["spread"] / case["median_s"])
        points.append(Point(case["case"], x, x / (1 + share), x / (1 - share)))
    left_out = [f"{case['case']}: {number(case['x_peer'])}" for case in cases if case["x_peer"] > edge]
    title = f"{result['question']} Speed, peer = 1"
    title += f" (beyond the edge: {', '.join(left_out)})" if left_out else ""
    svg = _standalone(bar_chart(title, points), [_COLOUR[case["role"]] for case in shown])
    return {name: (title + ". " + "; ".join(interval(p.value, p.low, p.high) + " " + p.label for p in points), svg)}


def _growth(name: str, result: Result) -> dict[str, tuple[str, str]]:
    """Seconds over documents beside a straight line from the smallest, and the peaks of memory."""
    growth, cases = result["growth"], result["cases"]
    across = [float(case[growth["x"]]) for case in cases]
    first = cases[0]["median_s"]
    measured = [
        (at, Point("seconds", c["median_s"], c["median_s"] - c["spread"], c["median_s"] + c["spread"]))
        for at, c in zip(across, cases, strict=True)
    ]
    linear = [(at, Point("linear", first * at / across[0])) for at in across]
    title = f"{result['question']} Seconds over {growth['x']}"
    found = {f"{name}-time": (title, _standalone(line_chart(title, {"measured": measured, "linear": linear})))}
    if growth["memory"]:
        lines = {
            part.removesuffix("_mb").replace("_", " "): [
                (at, Point(part, float(case[part]))) for at, case in zip(across, cases, strict=True)
            ]
            for part in growth["memory"]
        }
        zero = Reference(0.0, "0 MB")
        title = f"Peak memory in MB over {growth['x']}"
        found[f"{name}-memory"] = (title, _standalone(line_chart(title, lines, reference=zero)))
    return found


def _standalone(figure: str, colours: Sequence[str] = ()) -> str:
    """A chart of curation.report as a file of its own, on a card, so that it reads on light and dark pages.

    colours: of its bars, in their order.
    """
    found = re.search(r'<svg viewBox="0 0 (\S+) (\S+)"[^>]*>(.*)</svg>', figure, re.DOTALL)
    assert found is not None
    width, height, body = found.groups()
    given = iter(colours)
    body = re.sub(r'(?<=<rect class=")c0(?= fill")', lambda _: next(given, "c0"), body)
    head, drawing = body.split("</desc>", 1)
    wide = float(width) + BESIDE_LAST_TICK
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {height}" width="{wide * 1.5:g}" '
        f'role="img">{head}</desc><style>{_STYLE}</style><rect class="card" width="100%" height="100%"/>{drawing}'
        "</svg>\n"
    )


def write(files: Mapping[str, str], docs: Path = DOCS) -> None:
    """Write the page and its figures; figures of questions that are gone go too."""
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    for path in (docs / "figures").glob("*.svg"):
        if f"figures/{path.name}" not in files:
            path.unlink()
    for name, text in files.items():
        (docs / name).write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """python -m bench.draw [RESULTS DOCS]"""
    results, docs = (Path(arguments[0]), Path(arguments[1])) if arguments else (RESULTS, DOCS)
    write(draw(read(results)), docs)
    print(docs / "performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

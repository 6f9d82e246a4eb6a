"""A finished run of BETR whose gaps scripted models fill: task, script and settings of a small loop."""

import json
import shutil
from pathlib import Path
from typing import Any

from evaluation.loop_config import LoopConfig

TASK = """
name: statements
description: Short statements, each of one thing that is so.
opening: "[statement]"
closing: "[/statement]"
shots: 2
fields:
  - {name: text, marker: "Text:", min_chars: 10, max_chars: 400}
refine: Improve this draft.
judge: Which one is the worst?
"""
# Some of these words stand in what the finished run scores high, and some in its targets: so some rows reach the cut,
# and some lie nearer to a gap than any document.
SUBJECT = "${pick:The House of the United States|The current in a circuit|A woman in a coat|The sun|Green algae|A star}"
VERB = "${pick:is considered part of|is the most known of|stands in the kitchen with|is made of|will most likely cause}"
OBJECT = (
    "${pick:the entire national government|the flow of current when a switch is used in an electrical circuit|plants and fungi|"
    "the ice on the top of a car|great balls of gas burning miles away}"
)
SCRIPT = [
    {
        "match": r"This is a draft of one more:.*?Text: (?P<text>[^\n\[]+)",
        "answers": ["[statement]\nText: ${text}\n[/statement]"] * 7 + ["I'm sorry, but I can't help with that request."],
    },
    {"answers": [f"\nText: {SUBJECT} {VERB} {OBJECT} in ${{number:2-900}} ways\n[/statement]"]},
]


def loop_house(folder: Path, finished: Path, **changed: Any) -> LoopConfig:
    """A copy of a finished run's tables, and the settings of a loop on it."""
    shutil.copytree(finished / "tables", folder / "tables")
    return settings(folder, **changed)


def settings(folder: Path, **changed: Any) -> LoopConfig:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(TASK)
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    generator = f"scripted:{folder / 'script.json'}"
    given: dict[str, Any] = {
        "tables": str(folder / "tables"), "task": str(folder / "task.yaml"), "base": generator, "instruct": generator,
        "count": 4, "hold_back": 0.4, "accepted": 6, "bare": ("wave_rows=6",), "most_synthetic": 0.006,
    }  # fmt: skip
    return LoopConfig(**{**given, **changed})

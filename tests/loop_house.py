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
SUBJECT = "${pick:The sun|A switch|Green algae|A star|The stomach|A fever|A mountain|The bloodstream}"
VERB = "${pick:is responsible for|can stop and start|is made of|will most likely cause|seems smaller than}"
OBJECT = "${pick:food|plants|current|gas|nutrients|fungi|photographs|bacteria} and ${pick:wilting|burning|blooming|flow|miles|lenses}"
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
        "count": 4, "hold_back": 0.4, "accepted": 6, "bare": ("wave_rows=6",), "most_synthetic": 0.02,
    }  # fmt: skip
    return LoopConfig(**{**given, **changed})

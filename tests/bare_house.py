"""A small BARE run with scripted models: its script, seeds and settings."""

import json
from pathlib import Path
from typing import Any

from bare.config import BareConfig
from tests.helpers import write_lines

QUESTION = (
    "${pick:Anna|Ben|Carla|Dmitri|Eva|Farid} ${pick:buys|sells|finds|loses|paints|counts} ${number:2-900} "
    "${pick:apples|stones|boats|hats|tickets|lamps} near the ${pick:river|market|school|castle|harbour}, "
    "${pick:gives|lends|throws} ${number:2-99} to ${pick:a friend|her dog|the teacher|a stranger} and asks how many remain."
)
SCRIPT = [
    {"match": "Which one is the worst", "answers": ["1", "2", "3", "I can't say"]},
    {
        "match": r"This is a draft of one more:.*?Question: (?P<q>[^\n]+)",
        "answers": [
            *["[problem]\nQuestion: ${q}\nWorking: ${number:2-900} remain.\nResult: ${number:1-999}\n[/problem]"] * 14,
            "[problem]\nQuestion: ${q}\nWorking: it is some.\nResult: many\n[/problem]",
            "I'm sorry, but I can't help with that request.",
        ],
    },
    {
        "match": "This is a draft",
        "answers": ["[problem]\nQuestion: How many legs have ten tables of four legs?\nWorking: 10 * 4\nResult: 40\n[/problem]"],
    },
    {
        "answers": [
            *[f"\nQuestion: {QUESTION}\nWorking: ${{number:2-900}} - 2\nResult: ${{number:1-999}}"] * 9,
            "no item ${seed}",
        ]
    },
]
NOUNS = ("pens", "cups", "keys", "nuts", "cards", "coins", "rolls", "shells")


def seed_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Teacher {chr(65 + i % 26)} has {i + 3} {NOUNS[i % 8]} and hands out {i % 3 + 1} in lesson {i}. How many stay?",
            "answer": f"There stay {i + 3} - {i % 3 + 1} of them.\n#### {i + 3 - (i % 3 + 1)}",
            "license": "MIT",
        }
        for i in range(count)
    ]


def house(folder: Path, script: Any = SCRIPT, seeds: int = 60) -> dict[str, Any]:
    """Files of a run and the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script))
    write_lines(folder / "seeds.jsonl", seed_rows(seeds))
    generator = f"scripted:{folder / 'script.json'}"
    return {
        "tables": str(folder / "tables"), "task": "grade_school_maths", "seeds": (str(folder / "seeds.jsonl"),),
        "base": generator, "instruct": generator, "judge": generator, "accepted": 16, "wave_rows": 16,
        "seed": 4,  # two waves: of the first four rows fail, each for another reason, of the second none
    }  # fmt: skip


def config(settings: dict[str, Any], **changed: Any) -> BareConfig:
    return BareConfig(**{**settings, **changed})

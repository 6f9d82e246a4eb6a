"""Personas for the instruct-only arm that asks in many voices: occupation, place, habit, by hash of the item."""

from __future__ import annotations

from bare.draws import hash64

OCCUPATIONS = (
    "a baker", "a bus driver", "a nurse", "a bricklayer", "a music teacher", "a fisher", "a librarian", "a dentist",
    "a bicycle mechanic", "a farmer", "a cook in a school", "a tax clerk", "a gardener", "a conductor", "a tailor",
    "a weather reporter", "a bookkeeper", "a carpenter", "a vet", "a football coach", "a pharmacist", "a postal worker",
    "a student of law", "a retired sailor", "a zoo keeper", "a programmer", "a painter of houses", "a midwife",
    "a locksmith", "a market trader", "a geologist", "a translator",
)  # fmt: skip
PLACES = (
    "in a fishing village", "in a big city", "on a mountain farm", "in a mining town", "on a small island",
    "near a border", "in a desert town", "by a long river", "in a suburb", "in a university town", "in a port",
    "in a village without a shop", "in a ski resort", "in an old quarter", "near an airport", "in the far north",
)  # fmt: skip
HABITS = (
    "counts everything", "tells long stories", "mends things rather than buying new ones", "asks one question too many",
    "keeps a diary", "plays chess by mail", "sings in a choir", "collects maps", "cooks for the whole street",
    "runs before sunrise", "never throws a letter away", "bets on small things", "grew up speaking two languages",
    "takes part in every quiz", "looks after four grandchildren", "reads the instructions first",
)  # fmt: skip


def persona_of(item_id: str, *, run_seed: int) -> str:
    """Who writes the item, one of some eight thousand: `a baker in a port who collects maps`."""
    occupation, place, habit = (
        words[hash64("persona", run_seed, item_id, which) % len(words)]
        for which, words in enumerate((OCCUPATIONS, PLACES, HABITS))
    )
    return f"{occupation} {place} who {habit}"

"""How to read each measure: its name for people, which way is better, what it says; for terminal, pages and card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bare.collapse import MONITORS
from bare.judge import CHANCE

Kind = Literal["rows", "diversity", "real", "quality", "cost"]


@dataclass(frozen=True)
class Reading:
    """A measure for people. better: which way is, where one is; share: it is shown as percent."""

    name: str
    title: str
    text: str
    kind: Kind
    better: Literal["lower", "higher", ""] = ""
    share: bool = False

    @property
    def heading(self) -> str:
        """The title, and which way is better."""
        return f"{self.title} ({self.better} is better)" if self.better else self.title


READINGS = (
    Reading("accepted_rows", "Accepted rows", "How many rows passed every check.", "rows"),
    Reading("drafts", "Drafts made", "How many rows were tried, the rejected ones included.", "rows"),
    Reading(
        "acceptance", "Acceptance", "The share of the drafts that ended as an accepted row. Among few drafts the "
        "interval (Wilson's) is wide, and it means what it says.", "quality", "higher", share=True,
    ),
    Reading(
        "parse_failures", "Parse failures", "The share of rows that don't have the task's form.",
        "quality", "lower", share=True,
    ),
    Reading(
        "truncation", "Truncated", "The share of rows that reached the limit of tokens before their end.",
        "quality", "lower", share=True,
    ),
    Reading(
        "indistinguishability", "Indistinguishability",
        "A judge sees three real rows and this one, and names the worst: the share of answers that name another. "
        f"Chance is {CHANCE:.0%}: an interval below it says that the judge finds the synthetic rows worse than "
        "real ones, one above it that it prefers them. It is no better than its judge.",
        "quality", "higher", share=True,
    ),
    Reading(
        "judge_abstained", "Unreadable answers of the judge",
        "The share of the judge's answers that name no row plainly; they are left out of the rate. Where they are "
        "many, the rate rests on what was easy to answer.", "quality", "lower", share=True,
    ),
    Reading(
        "mean_cosine", "Mean cosine", "The mean similarity of two rows' embeddings, over all pairs: how much the rows "
        "are about the same. Real rows are the mark to stand beside, not 0.", "diversity", "lower",
    ),
    Reading(
        "mean_cosine_within", "Mean cosine within a class", "The same among rows of one label, the labels weighing the "
        "same: variety beyond that of the labels.", "diversity", "lower",
    ),
    Reading(
        "p95_cosine", "Cosine of near pairs", "The 95th percentile over all pairs: high where rows "
        "come in families.", "diversity", "lower",
    ),
    Reading(
        "vendi", "Vendi score", "The number of rows that differ in effect, from 1 to the number of rows. It grows with "
        "the number of rows.", "diversity", "higher",
    ),
    Reading(
        "distinct_1", "Distinct words", "Different words as a share of all words.", "diversity", "higher", share=True,
    ),
    Reading(
        "distinct_2", "Distinct word pairs", "Different pairs of words in a row as a share of all.",
        "diversity", "higher", share=True,
    ),
    Reading(
        "distinct_3", "Distinct word triples", "Different runs of three words as a share of all.",
        "diversity", "higher", share=True,
    ),
    Reading(
        "self_bleu", "Self-BLEU", "How much of a row's wording stands in some other row. Wording goes before meaning "
        "does: it can rise while the mean cosine stays.", "diversity", "lower",
    ),
    Reading(
        "compression", "Compression ratio", "Bytes before over bytes after packing: high where rows repeat each other, "
        "in form as well.", "diversity", "lower",
    ),
    Reading(
        "coverage", "Coverage of real data", "The share of the clusters of held-out real rows in which at least one "
        "row falls.", "real", "higher", share=True,
    ),
    Reading(
        "tail_mass", "Share in real data's tail", "The share of rows in the smallest clusters of real rows, which hold "
        "about a fifth of these. Rare things go first.", "real", "higher", share=True,
    ),
    Reading(
        "seed_copies", "Copies of seeds", "The share of rows that lie nearly on a seed.", "real", "lower", share=True,
    ),
    Reading(
        "label_distance", "Distance from the wanted labels", "How much of the rows would have to change their label "
        "for the wanted shares.", "quality", "lower", share=True,
    ),
    Reading(
        "draft_to_refined", "Draft to refined", "The mean similarity of a draft and its refinement: 1 where nothing "
        "changes, low where the refiner loses the theme.", "quality",
    ),
    Reading(
        "cost_per_accepted", "Cost of an accepted row", "All that was spent, on rejected rows too, over the accepted "
        "rows. The interval is a bootstrap over drafts.", "cost", "lower",
    ),
    Reading(
        "tokens_per_accepted", "Tokens for an accepted row", "Tokens in and out of all calls, those of rejected rows "
        "too, over the accepted rows.", "cost", "lower",
    ),
    Reading(
        "seconds_per_accepted", "Seconds for an accepted row", "The machines' seconds, those of rejected rows too, "
        "over the accepted rows.", "cost", "lower",
    ),
)  # fmt: skip
_BY_NAME = {reading.name: reading for reading in READINGS}


def reading(name: str) -> Reading:
    """How to read a measure; one that nobody described goes by its own name."""
    return _BY_NAME.get(name) or Reading(name, name.replace("_", " ").capitalize(), "", "quality")


def moves_with_rows(name: str) -> bool:
    """Whether a measure changes with the mere number of rows, so that only equal numbers compare."""
    return any(monitor.set_size for monitor in MONITORS if monitor.name == name)

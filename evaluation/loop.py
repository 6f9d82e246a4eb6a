"""The two methods close the loop: what the selection lacks is written by BARE, and judged by BETR's own classifier.

coverage -> gaps -> seeds -> drafts, refinements, verdicts -> synthetic documents -> scores -> selection -> coverage
"""

from __future__ import annotations

from betr.run import Outcome
from evaluation import loop_stages as stages


def close(loop: stages.Loop) -> Outcome | None:
    """The method. Each round goes out from what the one before left uncovered; each step does what is missing.

    Returns the models that judge it, None where no held-out split is named.
    """
    for round_ in range(loop.config.rounds):
        gaps = stages.find_gaps(loop, round_)  # the task examples with the least near them
        if stages.is_closed(loop, gaps):
            continue
        rows = stages.write_rows(loop, gaps)  # BARE: drafts from the gaps that it is shown, refined, judged
        imported = stages.import_rows(loop, gaps, rows)  # documents that know which gaps they were made for
        stages.embed(loop)  # in one space with the examples
        stages.score(loop)  # by the classifier as it is: nothing is retrained
        cut = stages.select(loop)  # those that reach the real cut, the best up to the cap, on top of what is real
        stages.cover(loop, gaps, rows, imported, cut)  # every example's nearest document, before and after
    return stages.judge(loop)  # does a small model get better by it

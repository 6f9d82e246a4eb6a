"""What a run leaves to look at: the summary, the `--json` object, `bare show`. Reads tables only."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from pyspark.sql import functions as F
from rich.table import Table
from rich.text import Text

from bare import measuring
from bare.arms import arm_of
from bare.cost import estimate, load_prices
from bare.judge import CHANCE
from bare.run import Run
from bare.tables import DRAFTS, GENERATIONS, METRICS, REFINED, ROUNDS, VERDICTS
from bare.verdicts import REASONS
from curation.progress import clock

ROWS_SHOWN = 4
VIEWS = ("summary", "reasons", "rows", "measures", "rounds", "generations")
STOPPED = {
    "accepted": "as many rows are accepted as were asked for",
    "attempts": "every item that is left was drafted --attempts times; raise it, or look at the reasons",
    "budget_rows": "the budget of drafts is spent",
    "budget_tokens": "the budget of tokens is spent",
    "budget_cost": "the budget of money is spent",
    "budget_seconds": "the budget of seconds is spent",
    "interrupted": "stopped by Ctrl-C; the same command goes on",
}


def report(run: Run) -> dict[str, Any]:
    """The object that `--json` prints: what this generation holds now, whichever runs made it."""
    totals = run.totals
    measures = {m.name: m.value for m in measuring.metrics_of(run, measuring.ALL_ROUNDS)}
    judged = measuring.indistinguishable(run)
    return {
        "run_id": run.run_id,
        "generation_id": run.generation_id,
        "tables": run.tables.root,
        "drafts": totals.drafts,
        "refined": totals.refined,
        "accepted": totals.accepted,
        "rejected": dict(sorted(totals.rejected.items())),
        "tokens_in": totals.tokens_in,
        "tokens_out": totals.tokens_out,
        "seconds": round(totals.seconds, 3),
        "cost": totals.cost,
        "stopped_by": run.stopped_by,
        "measures": {name: measures.get(name) for name in ("mean_cosine", "distinct_2", "vendi", "compression")},
        "indistinguishability": None
        if judged is None
        else {
            "rate": judged.rate, "low": judged.low, "high": judged.high, "abstained": judged.abstained,
            "chance": CHANCE,
        },
        "warnings": run.warnings,
    }  # fmt: skip


def summarise(run: Run) -> None:
    """A run's last words on the terminal: what was made, what fell to which reason, what it cost, what it is like."""
    totals, console = run.totals, run.terminal.console
    console.print()
    console.print(reasons_table(run))
    measures_ = measures_table(run)
    if measures_.row_count:
        console.print()
        console.print(measures_)
    console.print()
    accepted = max(1, totals.accepted)
    cost = "" if totals.cost is None else f", cost {totals.cost:,.4f}, {totals.cost / accepted:,.6f} an accepted row"
    run.terminal.line(
        f"{totals.accepted:,} rows accepted of {totals.drafts:,} drafts; {totals.tokens_in:,} tokens in and "
        f"{totals.tokens_out:,} out, {clock(totals.seconds)} of model time{cost} (rejected rows counted)"
    )
    if totals.uncounted:
        run.terminal.warn(f"{totals.uncounted:,} calls told no tokens: tokens and cost are those of the others")
    if run.stopped_by:
        why = STOPPED.get(run.stopped_by, run.stopped_by)
        run.terminal.line(f"stopped after {clock(time.monotonic() - run.started)}: {why}")
    run.terminal.line(f"generation {run.generation_id} in {run.tables.root}; `bare show rows` shows drafts beside rows")


def reasons_table(run: Run) -> Table:
    """Rows by verdict, in the order of precedence of the reasons."""
    table = _table(("verdict", "left"), ("rows", "right"), ("share", "right"))
    counts = {"accepted": run.totals.accepted, **{r: run.totals.rejected[r] for r in REASONS if run.totals.rejected[r]}}
    counts |= {reason: count for reason, count in run.totals.rejected.items() if reason not in counts}
    total = max(1, sum(counts.values()))
    for reason, count in counts.items():
        table.add_row(reason.replace("_", " "), f"{count:,}", f"{count / total:.1%}")
    return table


def measures_table(run: Run) -> Table:
    """Measures of the accepted rows beside those of real ones, with their intervals; chance beside the judge's."""
    table = _table(("measure", "left"), ("accepted", "right"), ("95%", "left"), ("rows", "right"), ("real", "right"))
    real = {m.name: m for m in measuring.metrics_of(run, measuring.REAL)}
    for m in measuring.metrics_of(run, measuring.ALL_ROUNDS):
        beside = real.get(m.name)
        other = f"chance {CHANCE:.0%}" if m.name == "indistinguishability" else ""
        if beside is not None and beside.value is not None:
            other = f"{beside.value:.3f} (n {beside.n:,})"
        value = "" if m.value is None else f"{m.value:.3f}"
        interval = "too few rows" if m.low is None else f"{m.low:.3f} to {m.high:.3f}"
        table.add_row(m.name.replace("_", " "), value, interval, f"{m.n:,}", other)
    return table


def side_by_side(run: Run, count: int = ROWS_SHOWN) -> list[dict[str, Any]]:
    """The first accepted rows by id with their drafts: what the refiner made of what the base model wrote."""
    drafts = run.mine(DRAFTS).select("draft_id", F.col("text").alias("draft"))
    rows = run.mine(VERDICTS).where("accepted").orderBy("row_id").limit(count).join(drafts, "draft_id", "left")
    refined = run.mine(REFINED).select("row_id", F.col("text").alias("refined"))
    found = rows.join(refined, "row_id", "left").orderBy("row_id").collect()
    return [
        {"row_id": r["row_id"], "label": r["label"], "draft": r["draft"], "refined": r["refined"], "text": r["text"]}
        for r in found
    ]


def show(run: Run, view: str) -> dict[str, Any]:
    """One view on the terminal, and its rows for --json."""
    console = run.terminal.console
    if view == "rows":
        rows = side_by_side(run, 10)
        table = Table(show_lines=True, pad_edge=False)
        table.add_column("draft of the base model", ratio=1)
        table.add_column("accepted row", ratio=1)
        for row in rows:
            # As it is: what stands in brackets is no markup.
            table.add_row(Text((row["draft"] or "").strip()), Text((row["refined"] or row["text"] or "").strip()))
        console.print(table)
        return {"rows": rows}
    if view == "measures":
        console.print(measures_table(run))
        return {"measures": [row.asDict() for row in run.mine(METRICS).orderBy("round", "measure").collect()]}
    if view == "reasons":
        console.print(reasons_table(run))
        return {"accepted": run.totals.accepted, "rejected": dict(run.totals.rejected)}
    if view in ("rounds", "generations"):
        frame, shown = (
            (run.mine(ROUNDS).orderBy("round"), ("round", "accepted", "action", "reason"))
            if view == "rounds"
            else (run.tables.read(GENERATIONS).orderBy("created"), ("generation_id", "task", "arm", "created"))
        )
        found = [row.asDict() for row in frame.collect()]
        table = _table(*((name, "left") for name in shown))
        for row in found:
            table.add_row(*(Text(str(row[name])) for name in shown))
        console.print(table)
        return {view: found}
    summarise(run)
    return report(run)


def estimate_cost(run: Run) -> dict[str, Any]:
    """What all rows that were asked for will take, from those made so far, with its interval."""
    rows = arm_of(run)
    costs = rows.spent("cost")
    priced = bool(run.config.prices)
    tokens, seconds = rows.spent("tokens"), rows.spent("seconds")
    wanted = run.config.accepted
    found = estimate(
        costs if priced else np.nan_to_num(tokens), rows.accepted, wanted=wanted, tokens=np.nan_to_num(tokens),
        seconds=seconds, seed=run.config.seed,
    )  # fmt: skip
    currency = load_prices(run.config.prices).currency if run.config.prices else "tokens (no --prices)"
    high = "open above" if found.high is None else f"to {found.high:,.2f}"
    run.terminal.line(
        f"{wanted:,} accepted rows will take about {found.drafts:,} drafts, {found.tokens:,} tokens, "
        f"{clock(found.seconds)} of model time; cost {found.cost:,.2f} {currency} ({found.low:,.2f} {high}, 95%)"
    )
    run.terminal.line(f"from {found.trial:,} drafts, {found.accepted:,} accepted; they are kept, `bare run` goes on")
    return {"run_id": run.run_id, "generation_id": run.generation_id, "currency": currency, **vars(found)}


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    return table

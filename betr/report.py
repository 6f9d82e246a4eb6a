"""A selection on a page: what was kept and why, what other cuts would keep, for which tasks, and at what cost.

Plain data in (figures.py), a self-contained page out; the frame and the charts are curation's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from betr.changes import Changes
from betr.coverage import QUANTILES
from betr.drift import MEANINGS, TITLES
from betr.figures import PLACES, ScoreBin, SelectionFigures, ShownDocument
from curation import report
from curation.decontamination import CUT, DROPPED
from curation.progress import clock
from curation.report import Html, Point, Reference, Section, percent

CHART_BINS = 60
ROWS_CHARTED = 12
MEDIAN = QUANTILES.index(0.5)
TO_DO = (
    "Look at what came in: its sources here, the documents at the cut below. If the corpus is to be like that from "
    "now on, --retrain draws the sample anew and teaches the classifier on it; if this much is usual, --drift widens "
    "a limit."
)
OF_A_CUT = {
    "documents": "documents to choose from", "tokens": "their tokens", "kept_documents": "documents kept",
    "kept_tokens": "tokens kept",
}  # fmt: skip


def selection_page(found: SelectionFigures) -> str:
    """The whole page, the answer first."""
    sections = [
        Section("In short", list(_short(found))),
        *([Section("Since the last run", _changes(found.changes))] if found.changes else []),
        Section("From rows to a selection", _flow(found)),
        Section("Scores and the cut", _scores(found)),
        Section("Sources, before and after", _strata(found)),
        Section("Tasks and their coverage", _coverage(found)),
        Section("Documents to look at", _documents(found)),
        Section("The classifier", _classifier(found)),
        Section("Time", _costs(found)),
        Section("To make it again", _versions(found)),
    ]
    tasks = ", ".join(found.benchmarks)
    return report.page(
        f"Selection {found.config.name}: documents for {_brief(tasks, 90)}", sections, lead=_answer(found)
    )


def _brief(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rsplit(", ", 1)[0] + " and more"


def _answer(found: SelectionFigures) -> str:
    kept, there = found.selection["kept_tokens"], found.selection["tokens"]
    return (
        f"Kept {kept:,} of {there:,} tokens ({percent(kept / there)}) in {found.selection['kept_documents']:,} of "
        f"{found.selection['documents']:,} documents: those most like the examples of {len(found.benchmarks)} "
        f"benchmark{'s' if len(found.benchmarks) != 1 else ''}, {_because(found)}."
    )


def _with_code(before: str, command: str, after: str) -> Html:
    return report.join([before, report.code(command), after])


def _because(found: SelectionFigures) -> str:
    """How much was asked for, in the words of the setting that asked."""
    config, rate = found.config, found.parameters["filter_rate"]
    if config.flops is not None:
        why = (
            f"because for a training compute of {config.flops:.3g} FLOPs the paper's law ({config.law}) keeps "
            f"{percent(rate['keep'], 2)}"
        )
    elif config.threshold is not None:
        why = f"because the threshold of an earlier selection, {config.threshold:.6f}, holds on"
    elif config.tokens is not None:
        why = f"because {config.tokens:,} tokens were asked for"
    else:
        why = f"because {percent(config.keep, 2)} of the tokens were asked for"
    drawn = f", drawn at random in proportion to their odds (temperature {config.temperature:g})"
    return why + (drawn if config.mode == "soft" else "")


def _short(found: SelectionFigures) -> Iterable[Html]:
    chosen = found.selection
    yield report.figures(
        [
            ("tokens kept", chosen["kept_tokens"]),
            ("of the tokens", percent(chosen["kept_tokens"] / chosen["tokens"])),
            ("documents kept", chosen["kept_documents"]),
            ("lowest score kept" if found.config.mode == "hard" else "lowest key kept", chosen["threshold"]),
            ("classifier's AUC", found.classifier["auc"]),
            ("time of all stages", clock(sum(each["seconds"] for each in found.costs))),
        ]
    )
    told = []
    sources = [each for each in found.by["source"] if each.kept_tokens and each.lift is not None]
    if len(found.by["source"]) > 1 and sources:
        best = max(sources, key=lambda each: each.lift or 0.0)
        gained = f"{best.lift:.2f} times its share of the corpus ({percent(best.share)} before)"
        told.append(f"{best.value} gained most: {gained}.")
    if found.gaps and found.gaps[0].similarity is not None:
        worst = found.gaps[0]
        told.append(
            f"The example with the least near it is one of {worst.benchmark}: its nearest sampled document has "
            f"similarity {worst.similarity:.3f}. No cut closes such gaps; other documents do."
        )
    if found.changes is not None:
        told.insert(0, _moved(found.changes))
    if told:
        yield report.bullets(told)
    for warning in found.parameters.get("warnings", ()):
        yield report.paragraph(warning, kind="note")


def _flow(found: SelectionFigures) -> list[Html]:
    imported, chosen = found.imported, found.selection
    put_aside = sum(found.rejected.values())
    rows = imported["documents"] + imported["duplicates"] + put_aside
    scored = "documents scored and left" if found.contamination or found.near_duplicates else "documents scored"
    steps: list[tuple[object, object, object]] = [
        ("rows read", rows, f"from {imported['files']:,} files"),
        *(
            (f"put aside: {reason}", count, "in the table rejected_documents")
            for reason, count in found.rejected.items()
        ),
        ("put aside: the same text again", imported["duplicates"], "in the table duplicate_documents"),
        ("documents", imported["documents"], f"{imported['bytes'] / 1e6:,.1f} MB of text"),
        ("of these sampled and ranked", found.sampled, f"by {sum(found.benchmarks.values()):,} task examples"),
        ("of the sample taught as ones to keep", found.positives, percent(found.positives / max(1, found.sampled))),
        *_left_out(found),
        (scored, chosen["documents"], f"{chosen['tokens']:,} tokens"),
        ("documents kept", chosen["kept_documents"], f"{chosen['kept_tokens']:,} tokens"),
    ]
    return [report.table(["step", "rows", ""], steps)]


def _left_out(found: SelectionFigures) -> list[tuple[object, object, object]]:
    """What the searches for near-duplicates and for held-out tests took away; nothing where none was made."""
    rows: list[tuple[object, object, object]] = []
    if (near := found.near_duplicates) is not None:
        rows.append(("left out: near-duplicates", near["copies"], f"of {near['clusters']:,} documents that stay"))
    if (shared := found.contamination) is not None:
        searched = f"searched for {shared['tests']:,} held-out test texts"
        rows += [
            ("dropped: too much of it stands in tests", shared[DROPPED], searched),
            ("cut around what stands in tests", shared[CUT], "in the table contaminated_documents"),
        ]
    return rows


# -- scores ------------------------------------------------------------------------------------------------------------


def _scores(found: SelectionFigures) -> list[Html]:
    edges, everything, kept = rebinned(found.bins)
    blocks = []
    if everything:
        blocks.append(
            report.histogram(
                "Tokens by score",
                edges,
                {"whole corpus": everything, "kept": kept},
                x_label="score as log-odds: 0 is a score of 0.5",
                note="each as a share of its own tokens" + _cut_in_words(found),
                reference=cut_line(found),
            )
        )
    others = [(percent(each.keep, 0), each.score, each.documents, each.tokens) for each in found.other_cuts]
    blocks.append(
        report.table(
            ["tokens kept", "score from about", "documents", "tokens"], others,
            caption="What other hard cuts of the same scores would keep, from the histogram: to the width of a bin",
        )
    )  # fmt: skip
    blocks.append(
        report.paragraph(
            _with_code("Another cut reads the stored scores alone: ", "betr select --keep SHARE", " takes seconds."),
            kind="quiet",
        )
    )
    return blocks


def _cut_in_words(found: SelectionFigures) -> str:
    if found.config.mode == "soft":
        return "; a soft cut keeps low scores too, more seldom"
    line = cut_line(found)
    return "" if line is None else f"; the cut is at {line.value:.2f}, a score of {found.selection['threshold']:.4f}"


def cut_line(found: SelectionFigures) -> Reference | None:
    """The cut as a line of the chart, where it is one score."""
    threshold = found.selection["threshold"]
    alone = found.config.mode == "hard" and not found.config.quotas and 0 < threshold < 1
    return Reference(_log_odds(threshold), "cut") if alone else None


def _log_odds(score: float) -> float:
    return math.log(score / (1 - score))


def rebinned(bins: Sequence[ScoreBin], most: int = CHART_BINS) -> tuple[list[float], list[int], list[int]]:
    """(edges, tokens, kept tokens) over at most `most` bins of equal width that hold all of `bins`."""
    if not bins:
        return [0.0, 1.0], [], []
    width = min(each.high - each.low for each in bins)
    count = round((bins[-1].high - bins[0].low) / width)
    together = max(1, math.ceil(count / most))
    edges = [bins[0].low + k * together * width for k in range(math.ceil(count / together) + 1)]
    everything, kept = [0] * (len(edges) - 1), [0] * (len(edges) - 1)
    for each in bins:
        at = round((each.low - bins[0].low) / width) // together
        everything[at] += each.tokens
        kept[at] += each.kept_tokens
    return edges, everything, kept


# -- sources -----------------------------------------------------------------------------------------------------------


def _strata(found: SelectionFigures) -> list[Html]:
    blocks: list[Html] = []
    for field, strata in found.by.items():
        rows = [
            (
                each.value, each.documents, each.kept_documents, percent(each.share), percent(each.kept_share),
                report.ABSENT if each.lift is None else f"{each.lift:.2f}",
            )
            for each in strata
        ]
        headers = [field, "documents", "kept", "of the corpus's tokens", "of the kept tokens", "lift"]
        if len(strata) > 1:
            charted = strata[:ROWS_CHARTED]
            before = report.bar_chart(
                f"{field}: share of the corpus's tokens",
                [Point(each.value, each.share) for each in charted],
                share=True,
            )
            after = report.bar_chart(
                f"{field}: share of the kept tokens",
                [Point(each.value, each.kept_share) for each in charted],
                share=True,
            )
            blocks.append(report.beside(before, after))
        blocks.append(report.table(headers, rows))
    blocks.append(
        report.paragraph(
            "Lift is the share of the kept tokens over the share of the corpus's: above 1 a source gained.",
            kind="quiet",
        )
    )
    return blocks


# -- coverage ----------------------------------------------------------------------------------------------------------


def _coverage(found: SelectionFigures) -> list[Html]:
    rows = [
        (
            each.benchmark, each.examples, percent(each.share), percent(each.chose / each.examples),
            *(each.quantiles[QUANTILES.index(q)] if each.quantiles else None for q in (0.1, 0.5, 0.9)),
            each.selected_quantiles[MEDIAN] if each.selected_quantiles else None, each.without_selected,
        )
        for each in found.coverage
    ]  # fmt: skip
    headers = [
        "benchmark", "examples", "of the selection", "chose some", "nearest, 10%", "median", "90%",
        "nearest kept, median", "nothing kept",
    ]  # fmt: skip
    blocks = [
        report.beside(
            report.bar_chart(
                "Share of the selection by benchmark",
                [Point(each.benchmark, each.share) for each in found.coverage],
                share=True,
                note="of the sampled documents kept: whose example ranked them best",
            ),
            report.intervals(
                "Similarity of the nearest document, by example",
                [
                    Point(each.benchmark, each.quantiles[MEDIAN], each.quantiles[1], each.quantiles[-2])
                    if each.quantiles
                    else Point(each.benchmark, None)
                    for each in found.coverage
                ],
                note="median over the benchmark's examples; the lines hold the middle 80% of them",
            ),
        ),
        report.table(headers, rows, caption="Against the sample that was ranked"),
        report.paragraph(
            "Nearest: the cosine similarity of an example's nearest sampled document. Chose some: examples that ranked "
            "a kept document better than all other examples did. Nothing kept: examples of whose nearest documents "
            "(the k that ranking keeps) none is in the selection.",
            kind="quiet",
        ),
    ]
    if found.gaps:
        gaps = [
            (each.similarity, each.selected_similarity, each.benchmark, each.text, each.nearest or report.ABSENT)
            for each in found.gaps
        ]
        blocks.append(
            report.table(
                ["nearest", "nearest kept", "benchmark", "example", "its nearest document"], gaps,
                caption=_with_code(
                    "The examples with the least near them; ", "betr gaps --out FILE", " writes them as seeds for bare"
                ),
            )
        )  # fmt: skip
    return blocks


# -- documents ---------------------------------------------------------------------------------------------------------


def _documents(found: SelectionFigures) -> list[Html]:
    blocks = [
        report.paragraph(
            "Next to each place sampled documents come first, because for them the nearest task example is known; the "
            "words are those that added most to the score.",
            kind="quiet",
        )
    ]
    for place in PLACES:
        mine = [each for each in found.documents if each.place == place]
        if mine:
            blocks.append(Html(f"<h3>{report.escape(place.capitalize())}</h3>"))
            blocks += [_document(each) for each in mine]
    return blocks


def _document(each: ShownDocument) -> Html:
    head = [report.code(each.doc_id), Html(f"<span>score <b>{each.score:.4f}</b></span>")]
    head.append(report.join([f"{each.tokens:,} tokens", *([f" of {each.source}"] if each.source else [])]))
    words = ", ".join(f"{word} (+{value:.2f})" for word, value in each.words) or "none that the classifier knows"
    if each.example is None:
        task = "not known: it isn't in the sample"
    else:
        task = f"{each.benchmark}, similarity {each.similarity:.3f}: {each.example}"
    columns = (("Document", each.text), ("Nearest task example", task))
    texts = "".join(
        f'<div><h4>{report.escape(name)}</h4><div class="text">{report.escape(text)}</div></div>'
        for name, text in columns
    )
    carried = report.paragraph(f"carried by: {words}", kind="quiet")
    return Html(f'<article><header>{report.join(head, " ")}</header><div class="pair">{texts}</div>{carried}</article>')


# -- the classifier ----------------------------------------------------------------------------------------------------


def _classifier(found: SelectionFigures) -> list[Html]:
    trained = found.classifier
    blocks = [
        report.figures(
            [
                ("trained on, documents", trained["training_documents"]),
                ("validated on, documents", trained["validation_documents"]),
                ("accuracy", trained["accuracy"]),
                ("AUC", trained["auc"]),
                ("log-loss", trained["log_loss"]),
                ("rank correlation", trained["rank_correlation"]),
            ]
        )
    ]
    if found.calibration:
        met = [(each.score, Point("", each.share, each.low, each.high)) for each in found.calibration]
        perfect = [(each.score, Point("", each.score)) for each in found.calibration]
        rows = [(each.score, each.documents, each.positives, percent(each.share)) for each in found.calibration]
        blocks += [
            report.beside(
                report.line_chart(
                    "Calibration on held-out documents",
                    {"positives that there are": met, "as the score says": perfect},
                    x_label="mean score of the bin",
                    share=True,
                    note="classes weighted equally, as in training; bands: 95% intervals (Wilson)",
                )
            ),
            report.table(["mean score", "documents", "positives", "share, weighted"], rows),
        ]
    blocks.append(
        report.paragraph(
            "The AUC is the chance that a document taught as one to keep scores above one taught as one to drop. "
            "Accuracy near 0.75 is what the paper reports; far above it the classifier may tell sources apart.",
            kind="quiet",
        )
    )
    return blocks


# -- since the last run ------------------------------------------------------------------------------------------------


def _moved(changes: Changes) -> str:
    """The night in a sentence or two."""
    came, beyond = changes.arrived, [each["measure"] for each in changes.breached]
    kept = f"; {came.kept:,} of them are kept ({percent(came.kept / came.documents)})" if came.documents else ""
    told = [f"Since the last run {came.documents:,} documents came in{kept}."]
    if beyond:
        told.append(f"Further than its limit moved: {', '.join(TITLES[name] for name in beyond)}.")
    elif changes.measures:
        told.append(f"None of {len(changes.measures)} measures moved beyond its limit.")
    return " ".join(told)


def _changes(changes: Changes) -> list[Html]:
    before, now, came = changes.before, changes.now, changes.arrived
    made = f"Beside version {before.version} of this selection, of {report.moment(before.created)} ("
    compared = report.join([made, report.code(before.selection_id), ")."])
    notes = [report.paragraph(f"Beyond its limit: {each['said']}.", kind="note") for each in changes.breached]
    sides = ((name, getattr(before, name), getattr(now, name)) for name in OF_A_CUT)
    cuts: list[tuple[object, ...]] = [(OF_A_CUT[name], was, is_, _signed(is_ - was)) for name, was, is_ in sides]
    shares = [each.kept_tokens / each.tokens if each.tokens else None for each in (before, now)]
    cuts += [("kept, of the tokens", *map(percent, shares), ""), ("lowest kept", before.threshold, now.threshold, "")]
    aside = ((f"put aside: {reason}", n, "in the table rejected_documents") for reason, n in came.rejected.items())
    rows: list[tuple[object, ...]] = [
        ("rows read", came.rows, f"from {came.files:,} new or changed file{'s' if came.files != 1 else ''}"),
        *aside,
        ("put aside: the same text again", came.duplicates, "in the table duplicate_documents"),
        ("new documents", came.documents, "the only ones that were scored"),
        ("of these kept", came.kept, percent(came.kept / came.documents) if came.documents else ""),
    ]
    sources = [(name, n, kept, percent(kept / n)) for name, (n, kept) in came.sources.items()]
    return [
        report.paragraph(compared, kind="quiet"),
        *notes,
        *([report.paragraph(TO_DO)] if notes else []),
        report.table(["the selection", "before", "now", "change"], cuts),
        report.table(["what came in", "rows", ""], rows),
        report.table(["its sources", "documents", "kept", "share kept"], sources),
        *_measures(changes),
        *_covered(changes),
        *_worked(changes),
        report.terms((TITLES[each["measure"]], MEANINGS[each["measure"]]) for each in changes.measures),
    ]


def _signed(count: int) -> str:
    return f"{count:+,}".replace("-", "\u2212") if count else "0"


def _measures(changes: Changes) -> list[Html]:
    if not changes.measures:
        return []
    verdicts = {True: "beyond its limit", False: "within"}
    rows = [
        (TITLES[each["measure"]], each["value"], each["at_most"], verdicts[each["breached"]], each["said"])
        for each in changes.measures
    ]
    allowed = [each for each in changes.measures if each["at_most"]]
    moved = [Point(TITLES[each["measure"]], each["value"] / each["at_most"]) for each in allowed]
    chart = report.intervals(
        "How far each measure moved, of what is allowed", moved, reference=Reference(1.0, "limit"), share=True,
        note="0% where the move is no more than chance",
    )  # fmt: skip
    return [
        *([report.beside(chart)] if moved else []),
        report.table(["measure", "moved by", "limit", "", "in words"], rows),
    ]


def _covered(changes: Changes) -> list[Html]:
    rows = [(c.benchmark, c.examples, c.before, c.now, c.kept_before, c.kept_now) for c in changes.coverage]
    headers = ["benchmark", "examples", "nearest, before", "now", "nearest kept, before", "now"]
    caption = (
        "Coverage: medians over a benchmark's examples of the similarity to the nearest sampled document and to the "
        "nearest kept one; new documents enter the sample with --retrain alone"
    )
    return [report.table(headers, rows, caption=caption)] if rows else []


def _worked(changes: Changes) -> list[Html]:
    rows = [(each.stage, each.rows_in, each.rows_out, clock(each.seconds)) for each in changes.work]
    idle = f"nothing to do for {', '.join(changes.unchanged)}" if changes.unchanged else ""
    return [report.table(["stage that worked", "rows in", "rows out", "time"], rows, caption=idle)]


# -- costs and versions ------------------------------------------------------------------------------------------------


def _costs(found: SelectionFigures) -> list[Html]:
    total = sum(each["seconds"] for each in found.costs)
    rows = [
        (
            each["stage"],
            each["runs"],
            each["rows_out"],
            each["seconds"],
            percent(each["seconds"] / total if total else None),
        )
        for each in found.costs
    ]
    chart = report.bar_chart("Seconds by stage", [Point(each["stage"], each["seconds"]) for each in found.costs])
    return [
        chart,
        report.table(
            ["stage", "finished runs", "rows out", "seconds", "share"], rows, caption="All runs on these tables"
        ),
        report.paragraph(
            _with_code("", "betr show run ID", " tells a run's reading, computing and writing apart."), kind="quiet"
        ),
    ]


def _versions(found: SelectionFigures) -> list[Html]:
    chosen = found.selection
    rows: list[tuple[object, object]] = [
        ("selection", report.code(chosen["selection_id"])),
        ("name and version", f"{found.config.name}, version {chosen['version']}"),
        ("made by run", report.code(chosen["run_id"])),
        ("created", chosen["created"]),
        ("classifier", report.code(found.classifier["classifier_id"])),
        *((name, report.code(value)) for name, value in found.versions.items()),
        ("tables", report.code(found.settings["tables"])),
        ("tables' versions", ", ".join(f"{name} {version}" for name, version in found.tables.items())),
        ("settings of the cut", report.code(json.dumps(_asked(found.settings), sort_keys=True))),
        ("this page again", report.code(f"betr report --tables {found.settings['tables']} --out FILE")),
    ]
    return [report.table(["what", "which"], rows)]


def _asked(settings: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value not in (None, [], (), "") and name != "tables"}

"""Pages of the evaluation: arms side by side, and what a selection costs and brings back.

Plain data in (compare.py, roi.py), a self-contained page out; the frame and the charts are curation's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from curation import report
from curation.progress import clock
from curation.report import COLOURS, Html, Point, Reference, Section, number, percent
from evaluation import after_finetuning, filter_law, roi
from evaluation.compare import (
    Comparison,
    Gain,
    Loss,
    Words,
    bits,
    overall_gains,
    place,
    points,
    right_answers,
    token_words,
    words,
)
from evaluation.filter_law import FilterLaw
from evaluation.laws import Laws
from evaluation.repetition import ASSUMED, repetition
from evaluation.scaling import Estimate

AVERAGE = "average"
_VERDICTS = {"better": "better", "worse": "worse", "open": "can't be told apart", "alone": "no verdict"}
# What holds for every comparison of small models, whatever its figures say.
SMALL = (
    "A proxy model is small. The paper's own laws say that larger models want less filtering: the best share to keep "
    "here is not the best share for them.",
    "Which arm is better can turn with size. Two sizes show a direction, no law; a law needs three sizes and three "
    "numbers of tokens each (docs/scaling.md).",
    "Bits per byte of a right answer fall long before a model answers right. A gain in bits is no promise of as many "
    "right answers.",
    "What these benchmarks don't ask isn't measured. A selection made for some tasks can lose on others.",
    "All arms have equal tokens. Where a selection is small it is read several times, which costs little up to four "
    "times and more beyond.",
)


def comparison_page(
    found: Comparison, *, title: str = "", ours: str | None = None, laws: Laws | None = None,
    kept: FilterLaw | None = None, reach: Mapping[str, float] | None = None, tuned: Comparison | None = None,
    by_tokens: Sequence[Comparison] = (),
) -> str:  # fmt: skip
    """The whole page, the answer first. ours: the arm whose defeats are listed; None: all but the baseline.

    laws, kept (the best share to keep): fitted through the runs, where there are; reach: arm -> unique tokens of its
    selection; tuned: the same models after fine-tuning; by_tokens: `compare.by_tokens`, of which `found` is the last.
    """
    said = words(found, ours=ours)
    more, turned = token_words(by_tokens)
    said = dataclasses.replace(said, told=(*said.told, *more), against=(*said.against, *turned))
    sections = [
        Section("In short", _short(found, said)),
        Section("What goes against it", _against(said)),
        Section(f"Gain over {found.baseline}", _gains(found)),
        *([Section("Each target on each benchmark", _matrix(found))] if found.cells else []),
        Section("Loss by size", _losses(found)),
        *([Section("Gain by tokens", _by_tokens(by_tokens))] if len(by_tokens) > 1 else []),
        *([Section("Right answers", _accuracy(found))] if found.accuracies else []),
        *([Section("After fine-tuning", _tuned(found, tuned))] if tuned else []),
        *([Section("Laws and the compute saved", _laws(laws))] if laws else []),
        *([Section("How much to keep", _filter_law(kept))] if kept else []),
        *([Section("How far the selections reach", _reach(reach))] if reach else []),
        Section("Runs and what they took", _runs(found)),
        Section("What this can't tell", [report.bullets(said.limits), report.bullets(SMALL)]),
        Section("Words", [_terms(found)]),
    ]
    arms = len({r.arm for r in found.runs})
    return report.page(title or f"{arms} arms at equal tokens", sections, lead=said.told[0])


def _last(found: Comparison) -> str:
    return found.sizes[-1].size


def _short(found: Comparison, said: Words) -> list[Html]:
    size = found.sizes[-1]
    mine = [r for r in found.runs if r.size == size.size]
    cards: list[tuple[object, object]] = [
        ("arms", size.arms),
        ("benchmarks", len(found.examples)),
        ("examples", sum(found.examples.values())),
        ("parameters, largest size", size.parameters),
        ("tokens an arm", size.tokens),
        ("finished runs, all sizes", sum(r.finished for r in found.runs)),
        ("diverged runs", sum(r.diverged for r in found.runs)),
    ]
    blocks = [report.figures(cards), report.bullets(said.told)]
    if any(r.finished == 1 for r in mine):
        blocks.append(report.paragraph("One seed an arm can't tell the spread between runs: train more.", kind="note"))
    return blocks


def _against(said: Words) -> list[Html]:
    if said.against:
        return [report.bullets(said.against)]
    return [report.paragraph("Nothing of what was measured. What wasn't measured stands below.")]


# -- gains -------------------------------------------------------------------------------------------------------------


def _gains(found: Comparison) -> list[Html]:
    mine = [g for g in found.gains if g.size == _last(found)]
    overall = [g for g in mine if g.benchmark is None] or mine
    ordered = sorted(overall, key=lambda g: (-g.gain, g.arm))
    together = f"whiskers: all {len(mine)} gains of this size hold at once, at {percent(found.level, 0)}"
    charts = [_chart("The average of the benchmarks" if overall[0].benchmark is None else "All", ordered, together)]
    arms = list(dict.fromkeys(g.arm for g in ordered))
    benchmarks = list(found.examples)
    blocks = [report.beside(*charts)] if len(benchmarks) < 2 else []
    if len(benchmarks) > 1:
        cells = {
            (arms.index(g.arm), benchmarks.index(g.benchmark)): Point("", g.gain, g.joint_low, g.joint_high)
            for g in mine
            if g.benchmark is not None
        }
        heat = [
            report.heat_map(
                f"Gain over {found.baseline} by benchmark" + (f", {k + 1} of {len(pages)}" if len(pages) > 1 else ""),
                arms,
                [benchmarks[j] for j in part],
                {(i, part.index(j)): p for (i, j), p in cells.items() if j in part},
                strongest=max(abs(g.gain) for g in mine),
                note="bits per byte; blue is better, orange is worse",
            )
            for pages in [_pages(len(benchmarks))]
            for k, part in enumerate(pages)
        ]
        blocks.append(report.beside(*charts, *heat))
    rows = [
        (g.arm, place(g.benchmark), bits(g.gain, g.joint_low, g.joint_high), bits(g.gain, g.low, g.high),
         verdict_of(g))
        for arm in arms for g in sorted(mine, key=lambda g: g.benchmark or "") if g.arm == arm
    ]  # fmt: skip
    headers = ["arm", "on", "gain, all at once", "gain, this one alone", "verdict"]
    blocks.append(
        report.table(headers, rows, caption=f"Size {_last(found)}: bits per byte fewer than {found.baseline}")
    )
    winners = [
        (place(w.benchmark), w.winner or "none", ", ".join(w.may_be_best))
        for w in found.winners
        if w.size == _last(found)
    ]
    caption = "Against every other arm: a winner surely beats all; the others may each be the best"
    blocks.append(report.table(["on", "winner", "may be the best"], winners, caption=caption))
    return blocks


def _pages(columns: int) -> list[list[int]]:
    return [list(range(at, min(at + report.COLUMNS, columns))) for at in range(0, columns, report.COLUMNS)]


def _chart(title: str, gains: Sequence[Gain], note: str) -> Html:
    points = [
        Point(g.arm if g.benchmark is None else f"{g.arm}, {g.benchmark}", g.gain, g.joint_low, g.joint_high)
        for g in gains
    ]
    return report.intervals(title, points, reference=Reference(0.0, gains[0].over), note=f"bits per byte; {note}")


def verdict_of(gain: Gain) -> Html:
    told = report.escape(_VERDICTS[gain.verdict])
    kind = {"better": "good", "worse": "bad"}.get(gain.verdict)
    return Html(f'<span class="badge {kind}">{told}</span>') if kind else told


# -- the matrix --------------------------------------------------------------------------------------------------------


def _matrix(found: Comparison) -> list[Html]:
    mine = [c for c in found.cells if c.size == _last(found)]
    arms = list(dict.fromkeys(c.arm for c in mine))
    benchmarks = [next(c.target for c in mine if c.arm == arm) for arm in arms]
    cells = {(arms.index(c.arm), benchmarks.index(c.benchmark)): Point("", c.gain, c.low, c.high) for c in mine}
    rows = [
        (d.arm, d.benchmark, f"{d.rank} of {d.of}", f"{d.low} to {d.high}", _stands(d.low, d.high))
        for d in found.diagonals
        if d.size == _last(found)
    ]
    maps = []
    for part in _pages(len(arms)):
        inside = {(i, part.index(j)): p for (i, j), p in cells.items() if j in part}
        maps.append(
            report.heat_map(
                f"Gain over {found.baseline}: arm made for one target, by benchmark", arms,
                [benchmarks[j] for j in part], inside, outlined=[(j, part.index(j)) for j in part],
                note="bits per byte; outlined: the benchmark that the arm was made for",
            )
        )  # fmt: skip
    return [
        report.beside(*maps),
        report.table(
            ["arm", "made for", "rank there", "rank may be", "its own benchmark"], rows,
            caption="Does the diagonal win? Rank 1 is best, among the arms for one target",
        ),
    ]  # fmt: skip


def _stands(low: int, high: int) -> Html:
    if high == 1:
        return Html('<span class="badge good">surely its win</span>')
    if low > 1:
        return Html('<span class="badge bad">surely not the best</span>')
    return report.escape("may be the best, or not")


# -- losses, answers, runs ---------------------------------------------------------------------------------------------


def _losses(found: Comparison) -> list[Html]:
    sizes = [each.size for each in found.sizes]
    parameters = {each.size: each.parameters / 1e6 for each in found.sizes}
    many = len(found.examples) > 1
    overall: list[Loss] = [each for each in found.losses if (each.benchmark is None) == many]
    last = {each.arm: each.bits_per_byte for each in overall if each.size == sizes[-1]}
    best = sorted(last, key=lambda arm: (last[arm], arm))
    blocks: list[Html] = []
    if len(sizes) > 1:
        drawn = [arm for arm in best if arm == found.baseline or best.index(arm) < COLOURS - 1][:COLOURS]
        if found.baseline in last and found.baseline not in drawn:
            drawn = [*drawn[: COLOURS - 1], found.baseline]
        lines = {
            arm: [
                (parameters[e.size], Point(e.size, e.bits_per_byte))
                for e in sorted((e for e in overall if e.arm == arm), key=lambda e: parameters[e.size])
            ]
            for arm in drawn
        }
        gains = {
            arm: [
                (parameters[g.size], Point(g.size, g.gain, g.joint_low, g.joint_high))
                for g in sorted(found.gains, key=lambda g: parameters[g.size])
                if g.arm == arm and (g.benchmark is None) == many
            ]
            for arm in drawn
            if arm != found.baseline
        }
        left = len(best) - len(drawn)
        note = "mean bits per byte, fewer are better"
        more = f"; the best {len(drawn) - 1} arms and {found.baseline}, the table has {left} more" if left else ""
        label = "million parameters"
        over = Reference(0.0, found.baseline)
        whiskers = "bits per byte; bands: all gains of a size at once"
        blocks.append(
            report.beside(
                report.line_chart("Loss by size", lines, x_label=label, note=note + more),
                report.line_chart(
                    f"Gain over {found.baseline} by size", gains, x_label=label, reference=over, note=whiskers
                ),
            )
        )
    by = {(e.arm, e.size): e for e in overall}
    rows = [
        (arm, *(bits(e.bits_per_byte, e.low, e.high) if (e := by.get((arm, s))) else report.ABSENT for s in sizes))
        for arm in best
    ]
    headers = ["arm", *(f"{s.size}, {number(s.parameters)} parameters" for s in found.sizes)]
    blocks.append(report.table(headers, rows, caption="Mean bits per byte, the lowest at the largest size first"))
    told = (
        "A mean's own interval is mostly how different the examples are. All arms are measured on the same examples, "
        "so that gains are surer than these intervals look: compare arms by their gains."
    )
    return [*blocks, report.paragraph(told, kind="quiet")]


def _by_tokens(each: Sequence[Comparison]) -> list[Html]:
    found, counts = each[-1], [e.sizes[-1].tokens for e in each]
    gains = [{g.arm: g for g in overall_gains(e) if g.benchmark is None or len(e.examples) == 1} for e in each]
    best = sorted(gains[-1], key=lambda arm: (-gains[-1][arm].gain, arm))
    lines = {
        arm: [
            (count / 1e6, Point(number(count), g.gain, g.joint_low, g.joint_high))
            for count, at in zip(counts, gains, strict=True)
            if (g := at.get(arm)) is not None
        ]
        for arm in best[:COLOURS]
    }
    rows = [
        (arm, *(bits(g.gain, g.joint_low, g.joint_high) if (g := at.get(arm)) else report.ABSENT for at in gains))
        for arm in best
    ]
    note = "bits per byte; bands: all gains of a number of tokens at once"
    caption = f"Size {_last(found)}: bits per byte fewer than {found.baseline}, by tokens that models were trained on"
    return [
        report.line_chart(
            f"Gain over {found.baseline} by tokens", lines, x_label="million tokens", note=note,
            reference=Reference(0.0, found.baseline),
        ),
        report.table(["arm", *(f"{number(count)} tokens" for count in counts)], rows, caption=caption),
        report.paragraph("A shorter run is a run of its own: its learning rate falls sooner.", kind="quiet"),
    ]  # fmt: skip


def _accuracy(found: Comparison) -> list[Html]:
    mine = [a for a in found.accuracies if a.size == _last(found)]
    charts = [
        report.intervals(
            f"Right answers on {benchmark}",
            [Point(a.arm, a.accuracy, a.low, a.high) for a in mine if a.benchmark == benchmark],
            reference=Reference(next(a.chance for a in mine if a.benchmark == benchmark), "chance"),
            share=True,
        )
        for benchmark in dict.fromkeys(a.benchmark for a in mine)
    ]
    rows = [
        (g.arm, place(g.benchmark), points(g.gain, g.joint_low, g.joint_high), verdict_of(g))
        for g in right_answers(found)
    ]
    headers = ["arm", "on", f"percentage points more than {found.baseline}", "verdict"]
    return [*([report.beside(*charts)] if charts else []), *([report.table(headers, rows)] if rows else [])]


def _runs(found: Comparison) -> list[Html]:
    rows = [
        (r.arm, r.size, r.parameters, f"{r.finished} of {r.finished + r.diverged}", r.tokens, r.epochs, r.loss,
         clock(r.seconds), f"{r.flops:.2e}", ", ".join(r.devices), "; ".join(r.reasons) or report.ABSENT)
        for r in found.runs
    ]  # fmt: skip
    headers = [
        "arm", "size", "parameters", "runs finished", "tokens", "epochs", "training loss", "time", "FLOPs", "device",
        "why diverged",
    ]  # fmt: skip
    spent = f"{clock(sum(r.seconds for r in found.runs))} and {sum(r.flops for r in found.runs):.2e} FLOPs in all"
    return [report.table(headers, rows, caption=f"All runs of an arm and size; time and FLOPs are their sum: {spent}")]


def _laws(found: Laws) -> list[Html]:
    saved = [
        (
            m.arm, m.by, report.interval(m.multiplier.value, m.multiplier.low, m.multiplier.high),
            m.multiplier.bins or report.ABSENT, m.multiplier.reason or report.ABSENT,
        )
        for m in found.multipliers
    ]  # fmt: skip
    headers = ["arm", "by", f"times the compute {found.baseline} needs", "bins", "why not, or no interval"]
    caption = "Compute multiplier: the mean over bins that both arms reach, never extrapolated"
    rows = [
        (each.arm, benchmark, each.runs, *(_estimate(getattr(law, name)) for name in ("E", "A", "alpha", "B", "beta")))
        for each in found.arms
        for benchmark, law in each.loss.items()
    ]
    blocks = [report.table(headers, saved, caption=caption)]
    if rows:
        names = ["arm", "benchmark", "runs", "E", "A", "alpha", "B", "beta"]
        blocks.append(
            report.table(names, rows, caption="Bits per byte = E + A / N^alpha + B / D^beta, N parameters, D tokens")
        )
    missing = [f"{each.arm}: {each.reason}" for each in found.arms if each.reason]
    return [*blocks, *([report.bullets(missing)] if missing else [])]


def _estimate(each: Estimate | None) -> str:
    return report.ABSENT if each is None else report.interval(each.value, each.low, each.high)


def _filter_law(found: FilterLaw) -> list[Html]:
    if found.reason:
        return [report.paragraph(filter_law.words(found)[0], kind="note")]
    told = {(flops, name): share for name, flops, share in filter_law.beside(found, found.computes)}
    names = list(dict.fromkeys(name for _, name in told))
    rows = [
        (
            f"{flops:.2e}",
            *(
                "beyond those tried" if (share := told[flops, name]) is None else filter_law.shares(share)
                for name in names
            ),
        )
        for flops in found.computes
    ]
    law = f"percent = {_estimate(found.factor)} x FLOPs^{_estimate(found.exponent)}"
    tried = ", ".join(percent(rate) for rate in found.rates)
    headers = ["FLOPs", "by these runs", *(f"paper, {name}" for name in names[1:])]
    return [
        report.bullets(filter_law.words(found)),
        report.table(headers, rows, caption=f"Best share of the tokens to keep. Tried: {tried}. Own law: {law}"),
        report.paragraph(
            "All runs of a compute train on equal tokens: what keeps little is read several times, so that the best "
            "share is also the one that still has enough to read.",
            kind="quiet",
        ),
    ]


def _tuned(found: Comparison, tuned: Comparison) -> list[Html]:
    left = after_finetuning.what_is_left(found, tuned)
    headers = ["arm", "on", "gain before", "gain after", "left"]
    cells = [tuple(report.ABSENT if c is None else c for c in row) for row in after_finetuning.rows(left, _last(found))]
    return [
        report.bullets(after_finetuning.words(left, _last(found))),
        report.table(headers, cells, caption=f"Size {_last(found)}: bits per byte fewer than {found.baseline}"),
        report.paragraph("Every model was fine-tuned on the same examples, and then measured again.", kind="quiet"),
    ]


def _reach(unique: Mapping[str, float]) -> list[Html]:
    rows = [
        (arm, int(tokens), int((r := repetition(tokens)).free), percent(r.worth), int(r.half), int(r.most))
        for arm, tokens in unique.items()
    ]
    headers = [
        "arm",
        "unique tokens",
        "almost free up to",
        "worth there",
        "a further one is worth half from",
        "never worth more than",
    ]
    return [
        report.table(headers, rows, caption="Tokens of training that a selection can serve, read again and again"),
        report.paragraph(f"By Muennighoff et al. 2023. What is assumed: {'; '.join(ASSUMED)}.", kind="quiet"),
    ]


def _terms(found: Comparison) -> Html:
    return report.terms(
        [
            (
                "Bits per byte",
                "How many bits a model needs for each byte of the right answer, given the question. Fewer are better; "
                "the mean is over examples and seeds.",
            ),
            ("Gain", f"The bits per byte of {found.baseline} less those of the arm: above 0 the arm is better."),
            (
                "All at once",
                "The interval is wide enough that all comparisons of its question and size hold together "
                "(max-statistic over a bootstrap of seeds and examples). Verdicts follow it alone.",
            ),
            ("Can't be told apart", "0 lies within the interval. It doesn't say that the arms are equal."),
            (AVERAGE.capitalize(), "The mean of the benchmarks' means: each benchmark counts the same."),
        ]
    )


# -- cost and return ---------------------------------------------------------------------------------------------------


def return_page(found: roi.Return, *, title: str = "What the selection costs and brings back") -> str:
    """One page for who pays: the gain on the tasks, the running cost, the effect on the business, and what is open."""
    said = roi.words(found)
    against = report.bullets(said.against) if said.against else report.paragraph("Nothing that these figures show.")
    sections = [
        Section("What it gained on the tasks", _bought(found, said)),
        Section("What it costs to run", _spent(found, said)),
        Section("What it is worth", _worth(found, said)),
        Section("What speaks against it, and what isn't known", [against]),
    ]
    return report.page(title, sections, lead=said.gain[0])


# What a stage does, in words of no trade.
DOES = {
    "import": "reads the documents",
    "targets": "reads the tasks' examples",
    "sample": "draws a sample of the documents",
    "embed": "turns sample and examples into vectors of meaning",
    "rank": "finds the documents nearest to each example",
    "train": "teaches a fast judge what is near",
    "score": "lets it judge every document",
    "deduplicate": "finds near-copies",
    "decontaminate": "finds documents that hold test questions",
    "select": "keeps the best documents",
    "cover": "tells which examples the kept documents serve",
    "watch": "tells what moved since the last time",
    "export": "writes the documents for training",
    "held-out": "reads the questions that models are asked",
    "proxies": "trains small models and asks them",
    "bare/draft": "a model drafts new examples",
    "bare/refine": "a model makes the drafts good",
    "bare/judge": "a model tells drafts from real ones",
}


def _does(stage: str) -> str:
    kind, _, rest = stage.partition("/")
    if kind == "loop":
        return "fills gaps of what was kept, and measures them again"
    arm = rest.removesuffix("/train").removesuffix("/score")
    return DOES.get(stage, f"chooses in another way: {arm}" if kind == "arm" else report.ABSENT)


def _bought(found: roi.Return, said: roi.Words) -> list[Html]:
    headers = ["gain", "how much", "cost", f"gain for each {found.currency}", "paid by the stages"]
    blocks = [report.bullets(said.gain), report.table(headers, [_priced(g, found.currency) for g in found.gains])]
    if len(found.ways) > 1:
        caption = "Every way to choose that was compared: what it would cost alone, by all the stages that it needs"
        rows = [_priced(g, found.currency) for g in sorted(found.ways, key=lambda g: (-g.gain.value, g.name))]
        blocks.append(report.table(headers, rows, caption=caption))
    if any(g.unit == "bits" for g in (*found.gains, *found.ways)):
        told = (
            "Bits a byte say how well a model foresees right answers: fewer are better, and a gain is how many fewer."
        )
        blocks.append(report.paragraph(told, kind="quiet"))
    return blocks


def _priced(g: roi.PerCost, currency: str) -> tuple[str, ...]:
    return (
        g.name, f"{roi.figure(g.gain)} {roi.UNITS[g.unit]}", roi.money(g.cost, currency),
        report.ABSENT if g.each is None else roi.figure(g.each), ", ".join(stage for stage, _ in g.stages),
    )  # fmt: skip


def _spent(found: roi.Return, said: roi.Words) -> list[Html]:
    cards: list[tuple[object, object]] = [("so far", roi.money(found.total, found.currency))]
    if found.running is not None:
        cards += [
            ("selecting once more", roi.money(found.running.once, found.currency)),
            ("a year", roi.money(found.running.a_year, found.currency)),
        ]
    by_part = [
        (
            p.part, p.core_hours, p.gpu_hours, p.tokens or report.ABSENT, roi.money(p.cost, found.currency),
            percent(p.cost / found.total if found.total else None),
        )
        for p in found.parts
    ]  # fmt: skip
    again = dict(found.running.stages) if found.running is not None else {}
    order = [p.part for p in found.parts]
    rows = [
        (
            s.stage, _does(s.stage), s.runs, clock(s.seconds), s.core_hours, s.gpu_hours,
            s.tokens or report.ABSENT, roi.money(s.cost, found.currency),
            percent(s.cost / found.total if found.total else None),
            roi.money(again[s.stage], found.currency) if s.stage in again else report.ABSENT,
        )
        for s in sorted(found.stages, key=lambda s: order.index(s.part))
    ]  # fmt: skip
    headers = ["core-hours", "GPU-hours", "tokens"]
    chart = report.bar_chart(
        "Cost by part", [Point(p.part, p.cost) for p in found.parts], note=f"in {found.currency}, all runs"
    )
    return [
        report.figures(cards), report.bullets(said.running), report.beside(chart),
        report.table(["part", *headers, "cost", "share"], by_part, caption="All that was done, by part"),
        report.table(
            ["stage", "what it does", "runs", "time", *headers, "cost", "share", "each time again"], rows,
            caption="By stage, in the order of the parts",
        ),
    ]  # fmt: skip


def _worth(found: roi.Return, said: roi.Words) -> list[Html]:
    if found.effect is None:
        why = next((r for r in found.reasons if r.startswith("effect on the business: ")), "")
        return [report.paragraph(f"Not known: {why.partition(': ')[2]}.")]
    cards = [
        ("worth in a year", roi.money(found.effect.a_year.value, found.currency)),
        ("left after the running cost", roi.money(found.effect.net.value, found.currency)),
        ("years until the first cost is back", found.effect.pays_back),
    ]
    return [report.figures(cards), report.bullets(said.effect)]

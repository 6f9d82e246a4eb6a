"""The data card: a README with Hugging Face's metadata in front, every sentence from what the tables hold."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from bare.agreement import Agreement
from bare.compare import ComparisonRow, shown
from bare.judge import CHANCE
from bare.metrics import Measure
from bare.reading import reading
from bare.report import ACCEPTED, RunReport
from curation.errors import InputError
from curation.report import ABSENT, interval, number, percent
from curation.statistics import wilson

UNKNOWN = "unknown"
FEW_SEEDS, FEW_ROWS = 30, 100  # below these the card says that there are few
ABSTAINED_OFTEN = 0.2
WEAK_KAPPA = 0.4  # below it agreement is at most fair (Landis and Koch)
LABEL_DRIFT = 0.1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SIZES = (
    ("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7),
    ("10M<n<100M", 1e8), ("100M<n<1B", 1e9), ("1B<n<10B", 1e10), ("10B<n<100B", 1e11), ("100B<n<1T", 1e12),
    ("n>1T", math.inf),
)  # fmt: skip
# The identifiers that Hugging Face documents (hub/repositories-licenses); what isn't among them is `other` with a name.
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1
llama3.2 llama3.3 gemma unknown
"""
LICENSES = frozenset(_LICENSES.split())


@dataclass(frozen=True)
class SeedsUsed:
    """The real examples that models were shown (shots) and compared with (held out), and their licences."""

    shots: int
    held_out: int
    licenses: Sequence[str | None] = ()
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class DataFile:
    """A file, or a pattern of files, of the data set, as the Hub loads it."""

    path: str
    split: str = "train"
    config: str = "default"


@dataclass(frozen=True)
class CardFacts:
    """What the card is written from, besides the generation's own figures.

    labels, seed_labels: rows by label of the accepted rows and of the seeds. words, seed_words: each row's number of
    words. judge: its name, or None where there was none. reviewed: rows that people looked at; overruled: those where
    they overruled the verdict. control: of collapse, None where rounds weren't compared. tests_checked: whether overlap
    with test sets was looked for. license_link: a URL, or a LICENSE file's name in the data set.
    """

    run: RunReport
    seeds: SeedsUsed
    files: Sequence[DataFile] = (DataFile("data/*.parquet"),)
    languages: Sequence[str] = ()
    task_categories: Sequence[str] = ("text-generation",)
    labels: Mapping[str, int] | None = None
    seed_labels: Mapping[str, int] | None = None
    words: Sequence[int] = ()
    seed_words: Sequence[int] = ()
    judge: str | None = None
    reviewed: int = 0
    overruled: int = 0
    agreements: Sequence[Agreement] = ()
    control: str | None = None
    tests_checked: bool = False
    pretty_name: str = ""
    license_link: str | None = None
    created: str = ""

    def __post_init__(self) -> None:
        for language in self.languages:
            if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", language):
                raise InputError(f"card: a language is two or three letters of ISO 639, such as en; got {language!r}")
        if not self.files:
            raise InputError("card: there are no data files; name at least one pattern, such as data/*.parquet")
        if not 0 <= self.overruled <= self.reviewed:
            raise InputError(f"card: people can't overrule {self.overruled} of {self.reviewed} rows; count them again")


def write_card(facts: CardFacts) -> str:
    """The card as Markdown. Texts of the data, of models and of people stand in it as text, never as markup."""
    run = facts.run
    title = facts.pretty_name or f"{run.task}: synthetic examples"
    parts = [
        f"# {_text(title)}\n\n{_text(run.description)}\n\n{_how_made(facts)}",
        *(f"> {_text(note)}" for note in run.notes),
        _part("Rows", _fates(run)),
        _part("Models", _models(run)),
        _part("Seeds", _seeds(facts.seeds)),
        _part("Licences", _licenses(facts)),
        _part("Labels", _labels(facts)),
        _part("Lengths", _lengths(facts)),
        _part("Measures", _measures(run)),
        _part("Cost", _cost(run)),
        _part("Reviews by people", _reviews(facts)),
        _part("Rounds", _rounds(facts)),
        _part("Known limits", "\n".join(f"- {_text(limit)}" for limit in known_limits(facts))),
    ]
    header = yaml.safe_dump(metadata(facts), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{header}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


# -- the header --------------------------------------------------------------------------------------------------------


def metadata(facts: CardFacts) -> dict[str, object]:
    """The header by the Hub's rules: its keys, its size classes, its licence identifiers, a split for each file."""
    found: dict[str, object] = {"pretty_name": facts.pretty_name or f"{facts.run.task}: synthetic examples"}
    if facts.languages:
        found["language"] = list(facts.languages)
    found |= license_metadata(facts)
    found |= {
        "size_categories": [size_category(facts.run.accepted)],
        "task_categories": list(facts.task_categories),
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "tags": ["synthetic", "bare", facts.run.task],
    }
    configs: dict[str, list[dict[str, str]]] = {}
    for file in facts.files:
        configs.setdefault(file.config, []).append({"split": file.split, "path": file.path})
    found["configs"] = [{"config_name": name, "data_files": files} for name, files in configs.items()]
    return found


def size_category(rows: int) -> str:
    """The Hub's class for a number of rows."""
    return next(name for name, below in _SIZES if rows < below)


def license_metadata(facts: CardFacts) -> dict[str, str]:
    """`license` where all models that wrote and all seeds have one and the same that the Hub knows; else `other`.

    `other` gets a name of all there are, so that none goes unseen: whoever uses the rows has to read each of them.
    """
    names = sorted({license_id(given) for _, given in _all_licenses(facts)} or {UNKNOWN})
    if len(names) == 1 and names[0] in LICENSES:
        return {"license": names[0]}
    link = {} if facts.license_link is None else {"license_link": facts.license_link}
    return {"license": "other", "license_name": "-and-".join(names), **link}


def license_id(given: str | None) -> str:
    """A licence as an identifier: lower case, words joined by dashes; `unknown` for none."""
    return re.sub(r"[^a-z0-9.+]+", "-", (given or "").casefold()).strip("-") or UNKNOWN


def _all_licenses(facts: CardFacts) -> list[tuple[str, str | None]]:
    """What shaped the rows' words, with its licence: the models that wrote, and the seeds; judge and encoder didn't."""
    wrote = [(f"{m.role} model {m.name}", m.license) for m in facts.run.models if m.role not in ("judge", "encoder")]
    return [*wrote, *(("seeds", given) for given in facts.seeds.licenses or (None,))]


# -- the text ----------------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")
_INTERVAL = re.compile(r"\\\[([\d.,%−∞ ]+)\\\](?![(\[:\\])")  # in brackets that mean nothing in Markdown


def _text(text: object) -> str:
    """Text in Markdown: on one line, without a meaning as markup."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return _INTERVAL.sub(r"[\1]", _SPECIAL.sub(r"\\\1", line))


def _part(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[_text(number(c) if c is None or isinstance(c, int | float) else c) for c in row] for row in rows]
    head = [f"| {' | '.join(headers)} |", f"|{'|'.join([' --- '] + [' ---: '] * (len(headers) - 1))}|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])


def _how_made(facts: CardFacts) -> str:
    run = facts.run
    when = f" on {_text(facts.created)}" if facts.created else ""
    generation = re.sub(r"[^0-9A-Za-z_.-]", "", run.generation_id)
    return (
        f"{run.accepted:,} synthetic rows for the task {_text(run.task)}, arm {_text(run.arm)}, made{when} by language "
        f"models from {facts.seeds.shots:,} real examples. Generation `{generation}`."
    )


def _fates(run: RunReport) -> str:
    open_rows = run.drafts - sum(run.reasons.values())
    fates = [(reason, count) for reason, count in run.reasons.items() if count or reason == ACCEPTED]
    fates += [("no verdict yet", open_rows)] if open_rows else []
    rows = [(reason, count, percent(count / run.drafts if run.drafts else None)) for reason, count in fates]
    return (
        f"{run.drafts:,} drafts, {run.refined:,} of them refined. The data set holds what was accepted.\n\n"
        + _table(["fate", "drafts", "share"], rows)
    )


def _models(run: RunReport) -> str:
    if not run.models:
        return "Which models wrote the rows isn't recorded."
    rows = [(m.role, m.name, m.revision or UNKNOWN, m.license or UNKNOWN) for m in run.models]
    return _table(["role", "model", "revision", "licence"], rows)


def _seeds(seeds: SeedsUsed) -> str:
    licences = ", ".join(sorted({_text(given or UNKNOWN) for given in seeds.licenses})) or UNKNOWN
    came = f" They come from {', '.join(_text(s) for s in seeds.sources)}." if seeds.sources else ""
    return (
        f"{seeds.shots:,} real examples were shown to the models; {seeds.held_out:,} more were held out, to measure "
        f"against.{came} Licence of the seeds: {licences}."
    )


def _licenses(facts: CardFacts) -> str:
    header = license_metadata(facts)
    rows = [(what, given or UNKNOWN) for what, given in dict.fromkeys(_all_licenses(facts))]
    if header["license"] not in ("other", UNKNOWN):
        told = f"Models and seeds are all under {_text(header['license'])}."
    else:
        told = "The licences differ, or aren't all known: read each before using the rows."
    return f"{told}\n\n{_table(['what', 'licence'], rows)}"


def _labels(facts: CardFacts) -> str:
    if not facts.labels:
        return ""
    seeds = facts.seed_labels or {}
    total, of_seeds = sum(facts.labels.values()), sum(seeds.values())
    rows = []
    for label in dict.fromkeys([*sorted(seeds), *sorted(facts.labels)]):
        count, other = facts.labels.get(label, 0), seeds.get(label, 0)
        low, high = wilson(count, total) if total else (None, None)
        ends = f"{percent(low)} to {percent(high)}"
        share = percent(other / of_seeds if of_seeds else None)
        rows.append((label, count, percent(count / total if total else None), ends, share))
    return _table(["label", "accepted rows", "share", "95% interval", "share of the seeds"], rows)


def _lengths(facts: CardFacts) -> str:
    if not facts.words:
        return ""
    rows = []
    for name, words in (("accepted rows", facts.words), ("seeds", facts.seed_words)):
        if len(words):
            quantiles = np.quantile(np.asarray(words, np.float64), QUANTILES)
            rows.append((name, len(words), *(f"{q:,.0f}" for q in quantiles)))
    return "Words in a row, by quantile.\n\n" + _table(["", "rows", *(f"{q:.0%}" for q in QUANTILES)], rows)


def _measures(run: RunReport) -> str:
    """Every measure with its interval and the real rows beside it, then what each says."""
    real = {m.name: m for m in run.real}
    rows = [(reading(m.name).heading, _figure(m), m.n, *_beside(real.get(m.name))) for m in run.measures]
    found = run.indistinguishability
    if found is not None:
        told = ABSENT if found.rate is None else f"{percent(found.rate)} [{percent(found.low)}, {percent(found.high)}]"
        rows.insert(0, (reading("indistinguishability").heading, told, found.answered, f"chance {CHANCE:.0%}", None))
    if not rows:
        return "Nothing was measured."
    names = [*(["indistinguishability"] if found is not None else []), *(m.name for m in run.measures)]
    read = [f"- **{_text(reading(n).title)}**: {_text(reading(n).text)}" for n in names if reading(n).text]
    table = _table(["measure", "accepted rows [95% interval]", "rows", "real rows", "of rows"], rows)
    return f"{table}\n\n" + "\n".join(read)


def _beside(measure: Measure | None) -> tuple[str, int | None]:
    return (ABSENT, None) if measure is None else (_figure(measure), measure.n)


def _figure(m: Measure) -> str:
    return shown(ComparisonRow("", "", m.name, m.value, m.low, m.high, m.n))


def _cost(run: RunReport) -> str:
    per_row = run.cost / run.accepted if run.cost is not None and run.accepted else None
    rows: list[tuple[str, object]] = [
        ("tokens in", run.tokens_in),
        ("tokens out", run.tokens_out),
        ("seconds of machines", run.seconds),
        (f"cost in {run.currency}", run.cost),
        (f"cost of an accepted row in {run.currency}", per_row),
    ]
    return "Of all calls, those of rejected rows too.\n\n" + _table(["", "in all"], rows)


def _reviews(facts: CardFacts) -> str:
    if not facts.reviewed:
        return ""
    told = (
        f"People looked at {facts.reviewed:,} rows and overruled the automatic verdict of {facts.overruled:,}. Kappa "
        "is agreement beyond chance: 1 is full, 0 is that of chance."
    )
    rows = [(f"{a.one} and {a.other}", a.rows, percent(a.observed), a.kappa) for a in facts.agreements]
    return told + ("\n\n" + _table(["raters", "rows", "agreed", "kappa"], rows) if rows else "")


def _rounds(facts: CardFacts) -> str:
    if not facts.run.rounds:
        return ""
    rows = []
    for r in sorted(facts.run.rounds, key=lambda r: r.number):
        cosine = next((m for m in r.measures if m.name == "mean_cosine"), None)
        told = ABSENT if cosine is None else interval(cosine.value, cosine.low, cosine.high)
        rows.append((str(r.number), r.accepted, told, r.action + (", halted" if r.halted else ""), r.reason))
    control = f"Collapse control: {_text(facts.control)}.\n\n" if facts.control else ""
    return control + _table(["round", "accepted", "mean cosine", "action", "why"], rows)


# -- known limits ------------------------------------------------------------------------------------------------------


def known_limits(facts: CardFacts) -> list[str]:
    """What whoever uses the rows must know, each from a fact of this generation."""
    return [
        "The rows are written by language models. The automatic checks are of form, labels and copies; whether a "
        "statement or an answer is right was not checked by them.",
        *_limits_of_origin(facts),
        *_limits_of_measures(facts),
        *_limits_of_people(facts),
        *_limits_of_rounds(facts),
    ]


def _limits_of_origin(facts: CardFacts) -> Iterable[str]:
    run, seeds = facts.run, facts.seeds
    if seeds.shots < FEW_SEEDS:
        yield f"All rows descend from {seeds.shots:,} real examples: what these lack the rows hardly have."
    if run.accepted < FEW_ROWS:
        yield f"There are {run.accepted:,} accepted rows: the intervals are wide."
    unknown = sorted({what for what, given in _all_licenses(facts) if license_id(given) == UNKNOWN})
    if unknown:
        yield f"The licence isn't known of: {', '.join(unknown)}."
    unpinned = sorted({m.name for m in run.models if not m.revision})
    if unpinned:
        yield f"The revision isn't known of: {', '.join(unpinned)}. The rows can't be made again from the names alone."
    if not facts.tests_checked:
        yield "Overlap with test sets was not looked for: decontaminate before evaluating on any."
    if run.cost is None:
        yield "What the rows cost isn't known: a price, or a server's token counts, were missing."
    if not facts.languages:
        yield "The language of the rows isn't declared."
    open_rows = run.drafts - sum(run.reasons.values())
    if open_rows:
        yield f"{open_rows:,} drafts have no verdict yet; they are not in the data set."
    if run.drafts and run.accepted / run.drafts < 0.2:
        share = percent(run.accepted / run.drafts)
        yield f"Only {share} of the drafts were accepted: the rows are what passes the checks."


def _limits_of_measures(facts: CardFacts) -> Iterable[str]:
    run, found = facts.run, facts.run.indistinguishability
    if facts.judge is None or found is None or found.rate is None:
        yield "No judge compared the rows with real ones: their quality beside real rows isn't measured."
    else:
        asked = found.answered + found.abstained
        if found.high is not None and found.high < CHANCE:
            yield (
                f"The judge tells the rows from real ones more often than by chance: indistinguishability is "
                f"{percent(found.rate)} where chance is {CHANCE:.0%}."
            )
        if found.abstained > ABSTAINED_OFTEN * asked:
            yield f"The judge gave {found.abstained:,} unreadable answers of {asked:,}: its rate rests on the others."
        if facts.judge in {m.name for m in run.models if m.role in ("base", "instruct")}:
            yield f"The judge, {facts.judge}, also wrote the rows: it may like its own."
    if not run.measures:
        yield "The rows' diversity isn't measured."
    elif not run.real:
        yield "No real rows were held out, so no measure has real data to stand beside."
    if facts.labels and facts.seed_labels:
        distance = _distance(facts.labels, facts.seed_labels)
        if distance > LABEL_DRIFT:
            yield (
                f"The labels aren't shared out as in the seeds: {percent(distance)} of the rows would need another "
                "label. That may be the balance that was asked for."
            )


def _distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Total variation between the shares of labels."""
    a, b = sum(one.values()) or 1, sum(other.values()) or 1
    return sum(abs(one.get(label, 0) / a - other.get(label, 0) / b) for label in {*one, *other}) / 2


def _limits_of_people(facts: CardFacts) -> Iterable[str]:
    if not facts.reviewed:
        yield "No person reviewed any row."
        return
    yield f"People reviewed {facts.reviewed:,} rows; the others have been seen by no one."
    for a in facts.agreements:
        if a.kappa is not None and a.kappa < WEAK_KAPPA:
            yield f"{a.one} and {a.other} agree weakly beyond chance (kappa {number(a.kappa)} on {a.rows:,} rows)."


def _limits_of_rounds(facts: CardFacts) -> Iterable[str]:
    rounds = facts.run.rounds
    if len(rounds) > 1 and facts.control in (None, "off"):
        yield f"The {len(rounds)} rounds weren't compared with each other: no loss of diversity would have been seen."
    alarms = [str(r.number) for r in sorted(rounds, key=lambda r: r.number) if r.action != "none"]
    if alarms:
        yield f"Measures went beyond their limits in round {', '.join(alarms)}: see the rounds."
    if any(r.halted for r in rounds):
        yield "Generation was halted because nothing was left to try against a loss of diversity or quality."

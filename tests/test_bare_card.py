"""The data card: a header that the Hub reads, and sentences that follow from the facts and from nothing else."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData
from markdown_it import MarkdownIt

from bare.agreement import Agreement
from bare.card import (
    LICENSES,
    CardFacts,
    DataFile,
    SeedsUsed,
    known_limits,
    license_id,
    metadata,
    size_category,
    write_card,
)
from bare.judge import Indistinguishability, indistinguishability
from bare.metrics import Measure
from bare.report import ModelUsed, RoundSummary, RunReport
from curation.errors import InputError


def judged(missed: int, found: int, abstained: int) -> Indistinguishability:
    return indistinguishability([*["missed"] * missed, *["found"] * found, *["abstained"] * abstained])  # type: ignore[list-item]


MODELS = (
    ModelUsed("base", "org/base", "abc1", "Apache 2.0"),
    ModelUsed("instruct", "org/instruct", "abc2", "apache-2.0"),
    ModelUsed("judge", "org/judge", "abc3", "gemma"),
)
RUN = RunReport(
    "gen1", "grade_school_maths", "Maths problems.", "bare", drafts=400, refined=380,
    reasons={"accepted": 300, "not_parsed": 60, "copy_of_row": 40}, models=MODELS,
    measures=(Measure("mean_cosine", 0.31, 0.29, 0.33, 300), Measure("vendi", None, None, None, 3)),
    real=(Measure("mean_cosine", 0.28, 0.25, 0.31, 120),),
    indistinguishability=judged(75, 25, 5),
    tokens_in=120_000, tokens_out=45_000, seconds=812.5, cost=3.25, currency="EUR",
)  # fmt: skip
FACTS = CardFacts(
    RUN, SeedsUsed(60, 120, ["apache-2.0"], ["org/seeds"]), languages=["en"], labels={"yes": 150, "no": 150},
    seed_labels={"yes": 30, "no": 30}, words=list(range(1, 101)), seed_words=[10] * 5, judge="org/judge", reviewed=40,
    overruled=3, agreements=[Agreement("ann", "automatic", 40, 0.925, 0.5, 0.85)], control="watch", tests_checked=True,
)  # fmt: skip


def facts(run: dict[str, Any] | None = None, **changes: Any) -> CardFacts:
    return dataclasses.replace(FACTS, run=dataclasses.replace(RUN, **(run or {})), **changes)


def header(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return dict(yaml.safe_load(card.split("---\n")[1]))


def licenses_of(*given: str | None, seeds: str | None = "mit") -> CardFacts:
    models = tuple(ModelUsed("base", f"m{i}", "r", each) for i, each in enumerate(given))
    return facts({"models": models}, seeds=SeedsUsed(60, 120, [seeds]))


# -- the header --------------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_header() -> None:
    """With Hugging Face's own reader; the keys are those of its documented example of a data set's metadata."""
    card = write_card(FACTS)
    read = DatasetCard(card, ignore_metadata_errors=False).data
    assert isinstance(read, DatasetCardData)
    assert (read.license, read.language, read.size_categories) == ("apache-2.0", ["en"], ["n<1K"])
    data = vars(read)
    assert data["task_categories"] == ["text-generation"] and data["tags"] == ["synthetic", "bare", "grade_school_maths"]
    assert data["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    documented = {
        "language", "license", "license_name", "license_link", "tags", "annotations_creators", "language_creators",
        "pretty_name", "size_categories", "source_datasets", "task_categories", "task_ids", "configs",
    }  # fmt: skip
    assert set(header(card)) <= documented


def test_any_text_in_the_header_comes_back_as_it_was() -> None:
    odd = "a: b # c\n--- 'd' \"e\" 日本 {x}"
    assert metadata(facts(pretty_name=odd))["pretty_name"] == odd
    assert header(write_card(facts(pretty_name=odd)))["pretty_name"] == odd


def test_files_are_grouped_by_their_configuration() -> None:
    files = [DataFile("a.parquet"), DataFile("b.parquet", split="test"), DataFile("c/*.jsonl", config="drafts")]
    assert header(write_card(facts(files=files)))["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "a.parquet"}, {"split": "test", "path": "b.parquet"}]},
        {"config_name": "drafts", "data_files": [{"split": "train", "path": "c/*.jsonl"}]},
    ]


@pytest.mark.parametrize(
    ("rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (5_000_000, "1M<n<10M"), (10**13, "n>1T")],
)
def test_the_size_class_holds_the_number_of_rows(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_one_licence_of_all_is_the_data_sets_and_several_are_all_named() -> None:
    same = header(write_card(licenses_of("MIT", "mit ")))
    assert same["license"] == "mit" and "license_name" not in same
    differ = header(write_card(licenses_of("gemma", "Apache 2.0")))
    assert (differ["license"], differ["license_name"]) == ("other", "apache-2.0-and-gemma-and-mit")
    partly = header(write_card(licenses_of("mit", None)))
    assert (partly["license"], partly["license_name"]) == ("other", "mit-and-unknown")
    assert header(write_card(licenses_of(None, "", seeds=None)))["license"] == "unknown"
    own = header(write_card(licenses_of("Acme Community License (v2)", seeds="acme-community-license-v2")))
    assert (own["license"], own["license_name"]) == ("other", "acme-community-license-v2")
    linked = header(write_card(dataclasses.replace(licenses_of("gemma"), license_link="LICENSE.md")))
    assert linked["license_link"] == "LICENSE.md" and "license_link" not in differ
    assert {"apache-2.0", "gemma", "llama3.1", "cc-by-sa-4.0", "unknown"} <= LICENSES and "other" not in LICENSES


def test_the_judges_licence_is_not_the_rows() -> None:
    assert metadata(FACTS)["license"] == "apache-2.0"  # the judge is under another one, and wrote nothing
    assert "gemma" in write_card(FACTS)


def test_licences_are_written_as_identifiers() -> None:
    assert [license_id(x) for x in ("CC BY-SA 4.0", "Apache_2.0", None, " ", "llama3.1")] == [
        "cc-by-sa-4.0", "apache-2.0", "unknown", "unknown", "llama3.1",
    ]  # fmt: skip


# -- the text ----------------------------------------------------------------------------------------------------------


def test_the_card_holds_every_figure_of_the_generation() -> None:
    card = write_card(FACTS)
    for figure in (
        "300 synthetic rows", "| accepted | 300 | 75.0% |", "| not\\_parsed | 60 | 15.0% |", "org/instruct | abc2",
        "60 real examples were shown", "120 more were held out", "come from org/seeds", "| yes | 150 | 50.0% |",
        "0.310 [0.290, 0.330] | 300 | 0.280 [0.250, 0.310] | 120", "75.0% [65.7%, 82.5%] | 100 | chance 75%",
        "| tokens in | 120,000 |", "cost in EUR | 3.250", "row in EUR | 0.0108", "overruled the automatic verdict of 3",
        "| ann and automatic | 40 | 92.5% | 0.850 |", "`gen1`", "| seeds | 5 | 10 |",
    ):  # fmt: skip
        assert figure in card, figure
    assert "| accepted rows | 100 | 6 | 26 | 50 | 75 | 95 |" in card


def test_every_table_of_the_card_has_as_many_cells_in_every_line() -> None:
    rounds = (RoundSummary(0, 20, RUN.measures, "rotate_shots", "a | b", halted=True),)
    lines = write_card(facts({"rounds": rounds})).splitlines()
    blocks: list[list[int]] = [[]]
    for line in lines:
        if line.startswith("|"):
            blocks[-1].append(len(re.findall(r"(?<!\\)\|", line)))
        elif blocks[-1]:
            blocks.append([])
    assert len([b for b in blocks if b]) == 9
    assert all(len(set(block)) == 1 for block in blocks if block)


def test_no_text_becomes_markup_or_breaks_a_table() -> None:
    evil = "<script>x</script> | [a](http://b) [1](http://b) **c**\n## d"
    run = {"description": evil, "models": (ModelUsed("base", evil, evil, evil),), "notes": [evil], "reasons": {evil: 1}}
    run |= {"rounds": (RoundSummary(0, 1, (), evil, evil),)}
    agreed, seeds = [Agreement(evil, evil, 1, 1.0, 1.0, None)], SeedsUsed(1, 1, [evil], [evil])
    card = write_card(
        facts(run, labels={evil: 1}, pretty_name=evil, agreements=agreed, seeds=seeds, judge=evil, control=evil, created=evil)
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("---\n", 2)[2])
    inner = [child for token in tokens for child in token.children or []]
    assert not {"html_block", "html_inline", "link_open"} & {token.type for token in [*tokens, *inner]}
    assert evil.replace("\n", " ") in "".join(child.content for child in inner)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", *["h2"] * 11]
    strong = [after.content for before, after in pairwise(inner) if before.type == "strong_open"]
    assert "c" not in strong and "Mean cosine" in strong


def test_what_there_is_nothing_of_has_no_heading() -> None:
    card = write_card(facts(labels=None, words=(), reviewed=0, overruled=0, agreements=()))
    assert not {"## Labels", "## Lengths", "## Reviews by people", "## Rounds"} & set(card.splitlines())
    assert "Nothing was measured." in write_card(facts({"measures": (), "indistinguishability": None}))


# -- known limits ------------------------------------------------------------------------------------------------------


def test_a_generation_with_everything_has_the_limits_that_all_have() -> None:
    assert [limit[:30] for limit in known_limits(FACTS)] == ["The rows are written by langua", "People reviewed 40 rows; the o"]


CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"seeds": SeedsUsed(3, 120, ["apache-2.0"])}, "All rows descend from 3 real examples"),
    ({"reasons": {"accepted": 90, "not_parsed": 310}}, {}, "There are 90 accepted rows"),
    ({"reasons": {"accepted": 70, "not_parsed": 330}}, {}, "Only 17.5% of the drafts were accepted"),
    ({"reasons": {"accepted": 300}}, {}, "100 drafts have no verdict yet"),
    ({"models": (ModelUsed("base", "m", "r", None),)}, {}, "The licence isn't known of: base model m."),
    ({}, {"seeds": SeedsUsed(60, 9, [])}, "The licence isn't known of: seeds."),
    ({"models": (ModelUsed("base", "m", None, "mit"),)}, {}, "The revision isn't known of: m."),
    ({}, {"tests_checked": False}, "Overlap with test sets was not looked for"),
    ({"cost": None}, {}, "What the rows cost isn't known"),
    ({}, {"languages": ()}, "The language of the rows isn't declared."),
    ({}, {"judge": None}, "No judge compared the rows with real ones"),
    ({"indistinguishability": judged(50, 50, 0)}, {}, "more often than by chance: indistinguishability is 50.0% where chance is 75%"),
    ({"indistinguishability": judged(70, 0, 30)}, {}, "The judge gave 30 unreadable answers of 100"),
    ({}, {"judge": "org/instruct"}, "The judge, org/instruct, also wrote the rows"),
    ({"measures": ()}, {}, "The rows' diversity isn't measured."),
    ({"real": ()}, {}, "No real rows were held out"),
    ({}, {"labels": {"yes": 200, "no": 100}}, "16.7% of the rows would need another label"),
    ({}, {"reviewed": 0, "overruled": 0}, "No person reviewed any row."),
    ({}, {"agreements": [Agreement("ann", "bo", 30, 0.6, 0.5, 0.2)]}, "ann and bo agree weakly beyond chance (kappa 0.200 on 30 rows)"),
    ({"rounds": (RoundSummary(0, 9), RoundSummary(1, 9))}, {"control": None}, "The 2 rounds weren't compared"),
    ({"rounds": (RoundSummary(0, 9), RoundSummary(1, 9, (), "hotter", "x"))}, {}, "beyond their limits in round 1"),
    ({"rounds": (RoundSummary(0, 9, (), "halt", "x", halted=True),)}, {}, "Generation was halted"),
]


@pytest.mark.parametrize(("run", "changes", "limit"), CASES)
def test_a_limit_is_told_where_its_fact_holds_and_only_there(run: dict[str, Any], changes: dict[str, Any], limit: str) -> None:
    assert any(limit in told for told in known_limits(facts(run, **changes)))
    assert not any(limit in told for told in known_limits(FACTS))
    assert re.sub(r"\\", "", write_card(facts(run, **changes))).count(limit) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ["English"]}, "two or three letters of ISO 639, such as en; got 'English'"),
        ({"files": []}, "there are no data files"),
        ({"overruled": 41}, "people can't overrule 41 of 40 rows"),
    ],
)
def test_facts_that_break_a_rule_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        facts(**changes)

"""Collapse control: an alarm where a generator collapses, actions one by one, a halt; none in fifty quiet rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from bare.collapse import (
    MONITORS,
    CollapseConfig,
    Decision,
    Monitor,
    Round,
    Settings,
    decide,
    find_breaches,
    seed_pool,
)
from bare.metrics import Measure, fit_clusters, measure_rows
from curation.errors import InputError

ROWS, LENGTH, VOCABULARY = 80, 12, 400
ADAPT = CollapseConfig(control="adapt")

# -- a generator that collapses, and one that does not -----------------------------------------------------------------


class Writer:
    """Writes rows of words by how often it has seen each: from its own last rows if it `eats` them, else from the real.

    The hotter, the flatter: temperature 1 writes words as often as it saw them, less prefers the frequent ones.
    """

    def __init__(self, eats: bool) -> None:
        self.eats = eats
        self.seen = 1.0 / np.arange(1, VOCABULARY + 1) ** 0.7
        self.meanings = np.random.default_rng(0).normal(size=(VOCABULARY, 16))

    def rows(self, number: int, temperature: float) -> list[list[int]]:
        rng = np.random.default_rng(1_000 + number)
        shares = self.seen ** (1 / temperature) if self.eats else self.seen
        written = rng.choice(VOCABULARY, size=(ROWS, LENGTH), p=shares / shares.sum())
        if self.eats:
            self.seen = np.bincount(written.ravel(), minlength=VOCABULARY) + 1e-3
        return written.tolist()

    def measures(self, rows: list[list[int]], clusters: object = None) -> tuple[Measure, ...]:
        vectors = self.meanings[np.array(rows)].mean(axis=1) + 0.05
        texts = [" ".join(f"w{word}" for word in row) for row in rows]
        return measure_rows([str(i) for i in range(ROWS)], texts, vectors, clusters=clusters)  # type: ignore[arg-type]


def run(writer: Writer, rounds: int, config: CollapseConfig) -> tuple[list[Decision], list[Round]]:
    healthy = Writer(eats=False)
    real_rows = healthy.rows(-1, 1.0)
    clusters = fit_clusters(healthy.meanings[np.array(real_rows)].mean(axis=1) + 0.05, [str(i) for i in range(ROWS)])
    real = healthy.measures(healthy.rows(-2, 1.0), clusters)
    done: list[Round] = []
    decisions: list[Decision] = []
    settings = Settings()
    for number in range(rounds):
        done.append(Round(number, writer.measures(writer.rows(number, settings.temperature), clusters), settings))
        decisions.append(decide(done, decisions, real, config=config))
        settings = decisions[-1].settings
        if decisions[-1].halted:
            break
    return decisions, done


def test_a_generator_that_eats_its_own_rows_is_seen_treated_and_halted() -> None:
    decisions, rounds = run(Writer(eats=True), 50, ADAPT)
    actions = [d.action for d in decisions]
    assert actions[-1] == "halt" and decisions[-1].halted and len(decisions) < 20
    alarmed = [a for a in actions if a != "none"]
    assert alarmed == ["rotate_shots", "hotter", "hotter", "hotter", "halt"]
    assert rounds[-1].settings == Settings(temperature=1.0, rotation=1)
    for decision in decisions:
        assert (decision.action != "none") == bool(decision.breaches)
        assert not decision.breaches or decision.breaches[0].measure in decision.reason or " more); " in decision.reason
    assert {"distinct_1", "self_bleu"} & {b.measure for d in decisions for b in d.breaches}


@pytest.mark.slow
def test_a_generator_that_does_not_collapse_raises_no_alarm_in_fifty_rounds() -> None:
    decisions, _ = run(Writer(eats=False), 50, ADAPT)
    assert [d.action for d in decisions] == ["none"] * 50
    assert not any(d.breaches for d in decisions) and decisions[-1].settings == Settings()


def test_watching_says_the_same_first_words_and_changes_nothing() -> None:
    watched, rounds = run(Writer(eats=True), 8, CollapseConfig(control="watch"))
    adapted, _ = run(Writer(eats=True), 8, ADAPT)
    first = next(i for i, d in enumerate(adapted) if d.breaches)
    assert (watched[first].action, watched[first].reason) == (adapted[first].action, adapted[first].reason)
    assert not any(d.applied or d.halted for d in watched) and {r.settings for r in rounds} == {Settings()}


def test_switched_off_compares_nothing() -> None:
    decisions, _ = run(Writer(eats=True), 6, CollapseConfig(control="off"))
    assert [(d.action, d.breaches, d.reason) for d in decisions] == [("none", (), "control is off")] * 6


def test_fifty_quiet_rounds_of_every_measure_raise_no_alarm() -> None:
    """No tolerance at all, so that the widened interval alone must hold: 17 measures, three comparisons, 20 x 50 rounds."""
    monitors = tuple(dataclasses.replace(m, change=0.0, real=0.0, relative=False) for m in MONITORS)
    config = CollapseConfig(control="adapt", monitors=monitors)
    alarms = 0
    for run_number in range(20):
        rng = np.random.default_rng(run_number)
        values = 0.5 + 0.01 * rng.normal(size=(51, len(MONITORS)))
        rounds = [Round(i, noisy(values[i])) for i in range(50)]
        alarms += any(find_breaches(rounds[: i + 1], noisy(values[50]), config=config)[0] for i in range(50))
    assert alarms <= 1  # each run of 50 with probability 0.01 at most


def noisy(values: Sequence[float]) -> tuple[Measure, ...]:
    return tuple(Measure(m.name, v, v - 1.96 * 0.01, v + 1.96 * 0.01, 500) for m, v in zip(MONITORS, values, strict=True))


# -- comparing ---------------------------------------------------------------------------------------------------------


def measures(**values: float) -> tuple[Measure, ...]:
    return tuple(Measure(name, value, value - 0.001, value + 0.001, 500) for name, value in values.items())


def rounds_of(*each: tuple[Measure, ...]) -> list[Round]:
    return [Round(i, m) for i, m in enumerate(each)]


GOOD = {m.name: 0.5 for m in MONITORS}


@pytest.mark.parametrize("monitor", MONITORS, ids=lambda m: m.name)
def test_each_measure_alarms_in_the_direction_of_harm_alone(monitor: Monitor) -> None:
    harmful = {**GOOD, monitor.name: 0.5 + 0.4 * monitor.harm}
    harmless = {**GOOD, monitor.name: 0.5 - 0.4 * monitor.harm}
    breaches, _ = find_breaches(rounds_of(measures(**GOOD), measures(**harmful)), measures(**GOOD), config=ADAPT)
    assert {b.measure for b in breaches} == {monitor.name}
    assert breaches[0].against == "before" and breaches[0].harm == pytest.approx(0.4)
    assert find_breaches(rounds_of(measures(**GOOD), measures(**harmless)), measures(**GOOD), config=ADAPT) == ((), ())


def test_harms_are_those_that_are_known() -> None:
    rises = {"mean_cosine", "mean_cosine_within", "p95_cosine", "self_bleu", "compression", "seed_copies", "label_distance",
             "parse_failures", "truncation"}  # fmt: skip
    assert {m.name for m in MONITORS if m.harm == 1} == rises


def test_a_difference_is_a_breach_when_its_interval_clears_the_limit() -> None:
    """Reference by hand: z standard errors of both, and the limit of 0.03."""
    z = ADAPT.z
    clear = 0.03 + z * np.hypot(0.01, 0.02)

    def breaches(difference: float) -> int:
        one = (Measure("mean_cosine", 0.3, 0.3 - 0.0196, 0.3 + 0.0196, 500),)
        two = (Measure("mean_cosine", 0.3 + difference, 0.3 + difference - 0.0392, 0.3 + difference + 0.0392, 500),)
        return len(find_breaches(rounds_of(one, two), (), config=ADAPT)[0])

    assert z == pytest.approx(4.4, abs=0.2)
    assert (breaches(clear - 0.001), breaches(clear + 0.001)) == (0, 1)


def test_a_slow_slide_is_seen_against_the_first_round() -> None:
    slide = [measures(mean_cosine=0.3 + 0.025 * i) for i in range(5)]
    found = [find_breaches(rounds_of(*slide[: i + 1]), (), config=ADAPT)[0] for i in range(5)]
    assert [[b.against for b in breaches] for breaches in found] == [[], [], [], ["first"], ["first"]]


def test_the_distance_from_real_data_has_a_limit_from_the_first_round_on() -> None:
    breaches, _ = find_breaches(rounds_of(measures(tail_mass=0.01)), measures(tail_mass=0.2), config=ADAPT)
    assert [(b.measure, b.against) for b in breaches] == [("tail_mass", "real")]
    assert "tail_mass fell from 0.200 (real data) to 0.010, by 0.1" in str(breaches[0])


def test_what_cannot_be_compared_is_said() -> None:
    small = (dataclasses.replace(measures(vendi=20.0)[0], n=400), Measure("mean_cosine", None, None, None, 2))
    breaches, skipped = find_breaches(rounds_of(measures(vendi=50.0, mean_cosine=0.3), small), (), config=ADAPT)
    assert breaches == () and skipped == (
        "mean_cosine against before: too few rows to measure",
        "vendi against before: 400 rows and 500, and it moves with their number",
    )


# -- deciding ----------------------------------------------------------------------------------------------------------


def decisions_for(*values: dict[str, float], start: Settings | None = None) -> list[Decision]:
    """Decisions of rounds with these measures (the others as in GOOD), each made with the settings decided before."""
    rounds: list[Round] = []
    decisions: list[Decision] = []
    settings = start or Settings()
    for number, changed in enumerate(values):
        rounds.append(Round(number, measures(**{**GOOD, **changed}), settings))
        decisions.append(decide(rounds, decisions, measures(**GOOD), config=ADAPT))
        settings = decisions[-1].settings
    return decisions


def test_a_lost_theme_cools_the_refiner_until_it_is_cold() -> None:
    found = decisions_for({}, *[{"draft_to_refined": 0.1}] * 7)
    assert [d.action for d in found] == ["none", *["colder_refiner"] * 4, "rotate_shots", "halt", "halt"]
    assert found[4].settings == Settings(refine_temperature=0.3)


def test_drafting_gets_no_hotter_while_quality_is_lost() -> None:
    found = decisions_for({}, *[{"distinct_2": 0.1, "parse_failures": 0.9}] * 7)
    assert [d.action for d in found] == ["none", "rotate_shots", *["colder_refiner"] * 4, "halt", "halt"]
    assert {d.settings.temperature for d in found} == {0.7}


def test_after_a_quiet_round_the_first_remedy_comes_first_again() -> None:
    found = decisions_for({}, {"distinct_2": 0.1}, {"distinct_2": 0.1}, {}, {"distinct_2": 0.1})
    assert [d.action for d in found] == ["none", "rotate_shots", "hotter", "none", "rotate_shots"]
    assert found[-1].settings == Settings(temperature=0.8, rotation=2)


def test_one_action_a_round_with_its_reason() -> None:
    (_, decision) = decisions_for({}, {"distinct_2": 0.1, "self_bleu": 0.95})
    assert decision.action == "rotate_shots" and decision.applied and not decision.halted
    assert decision.reason.endswith("; diversity is lost: other shots, in another order")
    assert "(and 3 more)" in decision.reason  # two measures, against the round before and real data


def test_a_temperature_at_its_limit_is_not_raised() -> None:
    found = decisions_for({}, *[{"distinct_2": 0.1}] * 2, start=Settings(temperature=1.2))
    assert [d.action for d in found] == ["none", "rotate_shots", "halt"]


def test_decisions_need_those_before_them() -> None:
    rounds = rounds_of(measures(**GOOD), measures(**GOOD))
    with pytest.raises(InputError, match="need a decision for each but the last"):
        decide(rounds, [], (), config=ADAPT)
    with pytest.raises(InputError, match="there is no round to decide on"):
        decide([], [], (), config=ADAPT)


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_rounds_accumulate_or_replace_and_real_seeds_stay() -> None:
    rounds = [["a", "b"], ["c", "r1"]]
    assert seed_pool(["r1", "r2"], rounds, mode="accumulate") == ["r1", "r2", "a", "b", "c"]
    assert seed_pool(["r1", "r2"], rounds, mode="replace") == ["r1", "r2", "c"]
    assert seed_pool(["r1"], [], mode="replace") == ["r1"]


def test_seeding_from_synthetic_data_alone_is_refused() -> None:
    with pytest.raises(InputError, match="seeding from synthetic data alone is refused"):
        seed_pool([], [["a"]], mode="accumulate")
    with pytest.raises(InputError, match="one of the modes accumulate, replace; got 'keep'"):
        seed_pool(["r"], [], mode="keep")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"control": "auto"}, "--control must be one of watch, adapt, off"), ({"false_alarms": 0.0}, "false_alarms"),
     ({"rounds": 0}, "--rounds"), ({"step": 0.0}, "step must be above 0"), ({"monitors": ()}, "monitors must be named once"),
     ({"monitors": MONITORS[:1] * 2}, "monitors must be named once")],
)  # fmt: skip
def test_settings_that_break_a_rule_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CollapseConfig(**wrong)  # type: ignore[arg-type]

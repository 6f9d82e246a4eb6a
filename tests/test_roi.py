"""Cost and return: costs add up, a missing price is named, ends are the right ones, words and figures are the same."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bare.cost import Price, row_costs
from curation.errors import InputError
from evaluation import roi
from evaluation.report import return_page
from evaluation.roi import (
    Gained,
    Longer,
    PriceTable,
    Return,
    as_json,
    break_even,
    costs,
    equal_cost,
    longer,
    per_cost,
    return_on,
    words,
)
from evaluation.scaling import Estimate, LossLaw, Multiplier
from tests.test_bare_report import Reader as PageReader
from tests.test_compare import _NUMERAL, numerals
from tests.test_report import Reader

PRICES = PriceTable(core_hour=0.05, gpu_hour=2.0, currency="EUR")
LEDGER = pd.DataFrame(
    [
        ("choosing", "embed", 3600.0, 4.0, 1.0, None, None),
        ("choosing", "embed", 1800.0, 4.0, 1.0, None, None),
        ("choosing", "score", 7200.0, 16.0, 0.0, None, None),
        ("writing", "draft", 0.0, 0.0, 0.0, 2_000_000, 30.0),
        ("small models", "proxy", 3600.0, 8.0, 0.0, 5_000_000, None),
    ],
    columns=roi.COLUMNS,
)
BETR = Gained("BETR over random", ("embed", "score"), Estimate(2.0, 1.0, 3.0))
BARE = Gained("BARE's rows on top", ("draft",), Estimate(0.5, -0.2, 1.2))
BETTER = Multiplier(2.0, 1.5, 3.0, 10, (0.3, 0.5))


def law(*, spread: float = 0.0, lower: float = 0.0) -> LossLaw:
    row = np.array([math.log(0.9 - lower), math.log(60.0), math.log(300.0), 0.3, 0.33])
    rows = row + spread * np.random.default_rng(0).normal(size=(200, 5)) * np.array([1, 1, 1, 0.02, 0.02])
    e, a, b, alpha, beta = (Estimate(x) for x in (0.9 - lower, 60.0, 300.0, 0.3, 0.33))
    return LossLaw(e, a, b, alpha, beta, rows, 0, np.array([1e6, 1e9]), np.array([3e7, 3e10]), 0.95)


def whole(**changed: Any) -> Return:
    given = {
        "multiplier": BETTER, "planned_training": 500.0, "plain": longer(law(), Estimate(0.05, 0.02, 0.08), parameters=1e8, tokens=2e9),
        "times_a_year": 12.0, "repeated": {"embed": 0.1, "score": 1.0}, "value_per_point": 1000.0,
        "equal": equal_cost(law(), law(lower=0.2), choosing=4.9, training=500.0, planned=True),
    }  # fmt: skip
    return return_on(LEDGER, PRICES, [BETR, BARE], **{**given, **changed})


# -- costs -------------------------------------------------------------------------------------------------------------


def test_a_stages_cost_is_its_hours_at_their_prices_and_what_was_paid_beside() -> None:
    by_stage = {each.stage: each for each in costs(LEDGER, PRICES)}
    assert list(by_stage) == ["embed", "score", "draft", "proxy"]
    embed = by_stage["embed"]
    assert (embed.runs, embed.core_hours, embed.gpu_hours, embed.cost) == (
        2,
        6.0,
        1.5,
        pytest.approx(6 * 0.05 + 1.5 * 2),
    )
    assert by_stage["score"].cost == pytest.approx(32 * 0.05) and by_stage["proxy"].tokens == 5_000_000
    assert (by_stage["draft"].cost, by_stage["draft"].money) == (30.0, 30.0)
    shuffled = costs(LEDGER.sample(frac=1, random_state=0), PRICES)
    assert sum(each.cost for each in shuffled) == pytest.approx(sum(each.cost for each in by_stage.values()))


def test_a_price_that_is_missing_is_named_and_one_that_is_not_needed_may_be() -> None:
    with pytest.raises(InputError, match="no gpu_hour, which the stage embed needs; add it under machines"):
        costs(LEDGER, PriceTable(core_hour=0.05))
    with pytest.raises(InputError, match="no core_hour, which the stage embed needs"):
        costs(LEDGER, PriceTable(gpu_hour=1.0))
    assert costs(LEDGER[LEDGER["stage"] == "score"], PriceTable(core_hour=0.05))[0].cost == pytest.approx(1.6)
    assert costs(LEDGER, PriceTable(core_hour=0.0, gpu_hour=0.0))[0].cost == 0.0
    with pytest.raises(InputError, match="gpu_hour must be a number of 0 or more; got -1"):
        PriceTable(gpu_hour=-1)


def test_one_price_file_serves_estimate_and_roi(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("currency: EUR\nmachines: {core_hour: 0.05}\nmodels: {m: {per_hour: 1}}\n")
    found = roi.load_prices(str(file))
    assert found == PriceTable(core_hour=0.05, gpu_hour=None, currency="EUR", models={"m": Price(per_hour=1)})
    file.write_text("machines: {core_hour: 1}\nmodels: [m]\n")
    with pytest.raises(InputError, match="models must be names with their prices"):
        roi.load_prices(str(file))
    file.write_text("currency: EUR\n")
    with pytest.raises(InputError, match="must hold `machines`"):
        roi.load_prices(str(file))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("x", -1.0, 1, 0, None, None), "seconds must be a number of 0 or more; it isn't in stage x"),
        (("x", None, 1, 0, None, None), "the stage x held machines for an unknown time; say its seconds"),
        (("x", 5.0, 0, 0, 100, None), "the stage x made tokens on no machine and for no money"),
        (("x", 5.0, 1, 0, None, math.inf), "money must be a number of 0 or more; it isn't in stage x"),
    ],
)  # fmt: skip
def test_a_ledger_that_leaves_a_cost_open_is_refused(row: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        costs(
            pd.DataFrame([*LEDGER.itertuples(index=False, name=None), ("beside", *row)], columns=LEDGER.columns), PRICES
        )
    with pytest.raises(InputError, match="ledger: no column money; it has part, stage"):
        costs(LEDGER.drop(columns="money"), PRICES)
    with pytest.raises(InputError, match="it has no row"):
        costs(LEDGER.iloc[:0], PRICES)


def test_gain_per_cost_and_no_stage_pays_twice() -> None:
    stages = costs(LEDGER, PRICES)
    one, two = per_cost(stages, [BETR, BARE])
    assert one.cost == pytest.approx(3.3 + 1.6) and dict(one.stages) == {
        "embed": pytest.approx(3.3),
        "score": pytest.approx(1.6),
    }
    assert one.each is not None and (one.each.value, one.each.low, one.each.high) == tuple(
        pytest.approx(x / 4.9) for x in (2, 1, 3)
    )
    assert two.each is not None and two.each.low == pytest.approx(-0.2 / 30)
    free = per_cost(costs(LEDGER, PriceTable(0.0, 0.0)), [BETR])[0]
    assert free.cost == 0 and free.each is None
    with pytest.raises(InputError, match="embed can't pay for both BETR over random and again"):
        per_cost(stages, [BETR, Gained("again", ("embed",), Estimate(1.0))])
    with pytest.raises(InputError, match="x: no stage 'nothing' in the ledger; there are embed, score, draft, proxy"):
        per_cost(stages, [Gained("x", ("nothing",), Estimate(1.0))])
    with pytest.raises(InputError, match="a gain is in points or bits; got 'tokens'"):
        Gained("x", (), Estimate(1.0), "tokens")  # type: ignore[arg-type]


def test_every_part_is_counted_once_and_ways_may_share_their_stages() -> None:
    stages = costs(LEDGER, PRICES)
    found = roi.parts(stages)
    assert [each.part for each in found] == ["choosing", "writing", "small models"]
    assert sum(each.cost for each in found) == pytest.approx(35.3) and found[0].gpu_hours == 1.5
    both = roi.ways(stages, [BETR, Gained("dsir over random", ("score",), Estimate(1.9), rival=True)])
    assert [each.cost for each in both] == [pytest.approx(4.9), pytest.approx(1.6)]
    told = return_on(
        LEDGER, PRICES, [BETR], others=[BETR, Gained("dsir over random", ("score",), Estimate(1.9), rival=True)]
    )
    assert (
        "A cheaper way isn't surely worse: dsir over random, 1.900 percentage points for 1.60 EUR." in words(told).against
    )
    same = return_on(LEDGER, PRICES, [BETR], others=[Gained("dsir over random", ("score",), Estimate(0.1))])
    assert not any("cheaper way" in each for each in words(same).against)


def test_calls_cost_what_their_rows_cost_and_a_model_without_a_price_is_named() -> None:
    prices = PriceTable(models={"m": Price(0.5, 2.0, 3.6), "own": Price(per_hour=3.6)})
    rows = row_costs(prices.models["m"], [100, 3_000], [40, 700], [1.0, 2.5])
    assert prices.of_calls("m", 3_100, 740, 3.5, calls=2) == pytest.approx(rows.sum())
    assert prices.of_calls("own", 0, 0, 10.0, calls=2, untold=2) == pytest.approx(0.01)
    with pytest.raises(
        InputError, match=r"no price for model 'large'; it has m, own\. Add it, with 0 where it costs nothing"
    ):
        prices.of_calls("large", 1, 1, 1.0, calls=1)
    with pytest.raises(
        InputError, match="3 of 1,200 calls of the model 'm' told no tokens, and it is priced by tokens: price it"
    ):
        prices.of_calls("m", 1, 1, 1.0, calls=1200, untold=3)


# -- at equal cost -----------------------------------------------------------------------------------------------------


def test_at_equal_cost_plain_training_reads_on_for_what_choosing_costs() -> None:
    plain, better = law(), law()
    n, d = 1e9, 3e10  # the largest and the most that both trained
    found = equal_cost(plain, better, choosing=50.0, training=200.0, planned=True)
    assert (found.extra, found.parameters, found.tokens) == (0.25, n, d) and found.gain is not None
    assert (
        found.gain.value == pytest.approx(plain.loss([n], [d])[0] - better.loss([n], [d / 1.25])[0])
        and found.gain.value < 0
    )
    unsure = equal_cost(law(spread=0.02), law(spread=0.02), choosing=50.0, training=200.0)
    assert unsure.gain is not None and unsure.gain.low is not None and unsure.gain.high is not None
    assert unsure.gain.low < unsure.gain.value < unsure.gain.high
    free = equal_cost(plain, better, choosing=0.0, training=200.0)
    assert free.gain is not None and free.gain.value == pytest.approx(0)
    assert equal_cost(plain, better, choosing=1.0, training=None).reason == "nobody knows what a training costs"
    assert equal_cost(None, better, choosing=1.0, training=1.0, reason="why").reason == "why"
    far = equal_cost(plain, better, choosing=1e6, training=1.0)
    assert (
        far.gain is None
        and "the arm would be left with" in far.reason
        and "nothing under 30,000,000 was trained" in far.reason
    )


# -- break-even --------------------------------------------------------------------------------------------------------


def test_break_even_is_where_the_training_saved_pays_for_the_selection() -> None:
    """At that cost of training, training at 1 / m of it plus the selection costs the same."""
    for m in (1.2, 2.0, 4.7):
        found = break_even(100.0, Multiplier(m))
        assert found.training is not None
        assert found.training.value / m + 100 == pytest.approx(found.training.value)
    found = break_even(100.0, BETTER, planned=1000.0)
    assert found.training is not None and found.saved is not None
    assert (found.training.value, found.training.low, found.training.high) == (
        200,
        pytest.approx(150),
        pytest.approx(300),
    )
    assert (found.saved.value, found.saved.low, found.saved.high) == (
        400,
        pytest.approx(1000 / 3 - 100),
        pytest.approx(1000 * 2 / 3 - 100),
    )


def test_what_saves_nothing_never_pays_and_what_is_open_stays_open() -> None:
    none = break_even(100.0, Multiplier(0.9, 0.8, 1.1), planned=50.0)
    assert (
        none.training is None
        and "no training is dear enough" in none.reason
        and none.saved is not None
        and none.saved.value < 0
    )
    unsure = break_even(100.0, Multiplier(1.5, 0.9, 2.0))
    assert unsure.training is not None and unsure.training.high is None and unsure.training.low == pytest.approx(200)
    unsaid = break_even(100.0, Multiplier(None, reason="no bin holds both"))
    assert unsaid.training is None and unsaid.reason == "no bin holds both"
    with pytest.raises(InputError, match="the selection's cost must be a number of 0 or more; got -1"):
        break_even(-1, BETTER)
    with pytest.raises(InputError, match="the planned training's cost must be a number of 0 or more; got inf"):
        break_even(1, BETTER, planned=math.inf)


def test_training_longer_reaches_the_same_loss_by_the_law() -> None:
    plain = law()
    found = longer(plain, Estimate(0.05), parameters=1e8, tokens=2e9)
    assert found.tokens is not None and found.times is not None
    reached = plain.loss([1e8], [found.tokens.value])[0]
    assert reached == pytest.approx(plain.loss([1e8], [2e9])[0] - 0.05)
    assert found.times.value == pytest.approx(found.tokens.value / 2e9) and not found.extrapolated
    far = longer(plain, Estimate(0.2), parameters=1e8, tokens=2e9)
    assert far.extrapolated and far.tokens is not None and far.tokens.value > 3e10
    never = longer(plain, Estimate(0.9), parameters=1e8, tokens=2e9)
    assert (
        never.tokens is None and "a model of 100,000,000 parameters gains that from no number of tokens" in never.reason
    )
    assert longer(plain, Estimate(-0.1), parameters=1e8, tokens=2e9).reason == "there is no gain to catch up with"
    with pytest.raises(InputError, match="must be above 0; got 0 and 1"):
        longer(plain, Estimate(0.1), parameters=0, tokens=1)


def test_training_longer_is_as_unsure_as_law_and_gain_together() -> None:
    def width(spread: float, *ends: float) -> float:
        found = longer(law(spread=spread), Estimate(0.05, *ends), parameters=1e8, tokens=2e9).tokens
        assert (
            found is not None
            and found.low is not None
            and found.high is not None
            and found.low <= found.value <= found.high
        )
        return found.high - found.low

    assert 0 <= width(0.0) < 1 < width(0.02) < width(0.02, 0.03, 0.07)
    unsure = longer(law(spread=0.3), Estimate(0.2, 0.1, 0.3), parameters=1e8, tokens=2e9)
    assert unsure.tokens is not None and unsure.tokens.high is None  # in too many replicates no number is enough


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_the_three_parts_are_the_arithmetic_of_what_was_given() -> None:
    found = whole()
    assert found.total == pytest.approx(3.3 + 1.6 + 30 + 0.4) and found.reasons == ()
    assert (
        found.running is not None
        and found.running.once == pytest.approx(0.33 + 1.6)
        and found.running.a_year == pytest.approx(12 * 1.93)
    )
    assert found.effect is not None and found.effect.a_year == Estimate(2000.0, 1000.0, 3000.0)
    assert found.effect.net.value == pytest.approx(2000 - 12 * 1.93)
    assert found.effect.pays_back == pytest.approx(4.9 / found.effect.net.value)
    assert found.break_even is not None and found.break_even.selection == pytest.approx(4.9)


def test_what_was_not_given_is_not_known_and_said() -> None:
    bare = return_on(LEDGER, PRICES, [BETR])
    assert bare.running is None and bare.effect is None and bare.break_even is None and len(bare.reasons) == 5
    said = words(bare)
    assert sum(each.startswith("Not said, ") for each in said.against) == 5 and said.effect == ()
    bits = return_on(LEDGER, PRICES, [Gained("x", ("embed",), Estimate(0.05), "bits")], value_per_point=10.0)
    assert bits.effect is None and any("how many right answers that is isn't known" in each for each in bits.reasons)
    for change, text in (
        ({"times_a_year": -1}, "how often a year it is selected again must be a number of 0 or more; got -1"),
        ({"repeated": {"x": 1.0}}, "running cost: no stage 'x' in the ledger"),
        ({"repeated": {"embed": -1.0}}, "the share of embed must be a number of 0 or more; got -1.0"),
        ({"value_per_point": -5}, "value of a percentage point must be a number of 0 or more; got -5"),
    ):
        with pytest.raises(InputError, match=text):
            whole(**change)
    with pytest.raises(InputError, match="needs a gain and the stages that paid for it"):
        return_on(LEDGER, PRICES, [])


POOR = {
    "multiplier": Multiplier(1.1, 0.9, 1.3), "planned_training": 5.0, "value_per_point": 1.0,
    "plain": Longer(2e9, None, None, True, "a model gains that from no number of tokens"),
}  # fmt: skip


@pytest.mark.parametrize(
    "changed", [{}, POOR, {"multiplier": Multiplier(None, reason="no bin holds both"), "value_per_point": None}]
)
def test_every_number_in_words_is_one_of_the_result(changed: dict[str, Any]) -> None:
    found = whole(**changed)
    mine = (
        numerals(as_json(found)) | {f"{x:,.2f}" for x in amounts_of(found)} | {f"{x:,.0f}" for x in amounts_of(found)}
    )
    said = words(found)
    for sentence in (*said.gain, *said.running, *said.effect, *said.against):
        assert {each.strip("−-") for each in _NUMERAL.findall(sentence)} <= {each.strip("−-") for each in mine}, (
            sentence
        )


def amounts_of(found: Any) -> list[float]:
    if isinstance(found, float | int):
        return [abs(float(found))]
    if isinstance(found, dict):
        return [x for each in found.values() for x in amounts_of(each)]
    if isinstance(found, list | tuple):
        return [x for each in found for x in amounts_of(each)]
    return amounts_of(as_json(found)) if isinstance(found, Return) else []


def test_what_speaks_against_it_is_said() -> None:
    poor = " ".join(words(whole(**POOR)).against)
    for sentence in (
        "BARE's rows on top may have gained nothing: its interval holds 0.",
        "It may never pay against training longer",
        "For a training that costs 5.00 EUR the selection costs more than it saves",
        "The gain isn't worth its running cost",
        "No gain is set against proxy: 0.40 EUR more.",
        "Not said, training longer: a model gains that from no number of tokens.",
    ):
        assert sentence in poor
    good = " ".join(words(whole()).against)
    assert "never pay" not in good and "isn't worth" not in good and "costs more than" not in good


def test_the_page_holds_its_words_and_escapes_what_it_is_given() -> None:
    found = whole()
    page = return_page(found)
    text = PageReader(page).text
    said = words(found)
    for sentence in (*said.gain, *said.running, *said.effect, *said.against):
        assert " ".join(sentence.split()) in text
    assert re.findall(r"<h2>(.*?)</h2>", page)[:3] == [
        "What it gained on the tasks",
        "What it costs to run",
        "What it is worth",
    ]
    evil = "<script>x</script>"
    ledger = LEDGER.replace({"stage": {"embed": evil}})
    other = return_page(return_on(ledger, PRICES, [Gained(evil, (evil,), Estimate(1.0), "bits")]), title=evil)
    assert (
        "<script" not in other and "Not known: nobody said what a percentage point is worth." in PageReader(other).text
    )
    Reader(other)
    assert json.loads(json.dumps(as_json(found)))["total"] == found.total

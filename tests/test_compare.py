"""Arms side by side: intervals hold what they say, winners only where they may, words and figures are the same."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import pytest

from curation.errors import InputError, MissingExtraError
from curation.report import number, percent
from evaluation import compare as comparing
from evaluation.compare import Comparison, Gain, as_json, chance_of, compare, turned, words
from evaluation.resampling import Panel, contrasts, resample

BENCHMARKS = ("maths", "trivia", "stories")
SIZES = {"small": 1_000_000, "large": 4_000_000}
MADE_FOR = {f"betr_{b}": b for b in BENCHMARKS}


def tables(
    gains: Mapping[str, float | Mapping[str, float]], *, seeds: int = 3, examples: int = 60, noise: float = 0.01,
    sizes: Sequence[str] = ("small", "large"), benchmarks: Sequence[str] = BENCHMARKS, seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Runs and measures in which each arm's true gain over random is known; noise: spread between seeds, in bits."""
    rng = np.random.default_rng(seed)
    runs, rows = [], []
    hard = {b: rng.uniform(0.6, 1.6, examples) for b in benchmarks}
    for size in sizes:
        for arm in ("random", *gains):
            for k in range(seeds):
                proxy = f"{arm}-{size}-{k}"
                runs.append(
                    {
                        "proxy_id": proxy, "arm_id": f"id {arm}", "arm": arm, "size": size, "parameters": SIZES[size], "seed": k,
                        "tokens": 2_000_000, "epochs": 1.5 if arm == "betr" else 0.5, "steps": 100, "loss": 4.0, "status": "finished", "reason": None,
                        "flops": 6.0 * SIZES[size] * 2e6, "seconds": 30.0, "device": "cpu", "tokenizer_id": "t", "held_out_id": "h",
                    }
                )  # fmt: skip
                for b in benchmarks:
                    of_arm = gains.get(arm, 0.0)
                    true = of_arm if isinstance(of_arm, float) else of_arm.get(b, 0.0)
                    bits = hard[b] - true + rng.normal(0, noise) + rng.normal(0, 0.05, examples)
                    right = rng.random(examples) < (0.9 if b == "trivia" else 0.25)
                    rows.append(
                        pd.DataFrame(
                            {"proxy_id": proxy, "phase": "pretrained", "benchmark": b, "example_id": [f"{b}{i:03}" for i in range(examples)],
                             "nats": bits, "bytes": 1, "bits_per_byte": bits, "correct": [None] * examples if b == "stories" else right}
                        )
                    )  # fmt: skip
    return pd.DataFrame(runs), pd.concat(rows, ignore_index=True)


ARMS: dict[str, float | Mapping[str, float]] = {
    "betr": 0.2, "dsir": 0.0, "poor": -0.2, **{arm: {own: 0.15} for arm, own in MADE_FOR.items()},
}  # fmt: skip


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    return tables(ARMS)


@pytest.fixture(scope="module")
def found(frames: tuple[pd.DataFrame, pd.DataFrame]) -> Comparison:
    return compare(*frames, targets=MADE_FOR, chance={"maths": 0.25, "trivia": 0.25}, replicates=500)


def gain(found: Comparison, arm: str, benchmark: str | None, size: str = "large") -> Gain:
    [one] = [g for g in found.gains if (g.arm, g.benchmark, g.size) == (arm, benchmark, size)]
    return one


# -- the bootstrap -----------------------------------------------------------------------------------------------------


def slow_draw(panel: Panel, arm: str, benchmark: str, replicate: int, replicates: int) -> float:
    """One arm's mean in one replicate: every drawn seed and example looked up one by one."""
    from bare.draws import hash64

    def mixed(value: int) -> int:
        mask = 2**64 - 1
        z = (value + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def drawn(things: int, kind: str, name: str) -> list[int]:
        if things == 1:
            return [0]
        start = hash64("evaluation", kind, 0, name) + replicate * (things - 1)
        return [mixed((start + k) % 2**64) % things for k in range(things - 1)]

    values = panel.values[benchmark]
    models = [panel.models[arm][k] for k in drawn(len(panel.models[arm]), "seeds", arm)]
    examples = drawn(values.shape[1], "examples", benchmark)
    return sum(values[m, e] for m in models for e in examples) / len(models) / len(examples)


def test_the_bootstrap_is_the_slow_one_in_fewer_steps() -> None:
    rng = np.random.default_rng(3)
    panel = Panel({"a": [0, 1, 2], "b": [3, 4], "c": [5]}, {"x": rng.normal(size=(6, 9)), "y": rng.normal(size=(6, 1))})
    drawn = resample(panel, replicates=100)
    for r in (0, 1, 57, 99):
        for a, arm in enumerate(panel.arms):
            for b, benchmark in enumerate(panel.benchmarks):
                assert drawn[r, a, b] == pytest.approx(slow_draw(panel, arm, benchmark, r, 100))
    assert np.ptp(drawn[:, 2, 1]) == 0  # one seed, one example: nothing can vary


def test_drawing_in_pieces_changes_no_replicate(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Panel({"a": [0, 1], "b": [2, 3]}, {"x": np.random.default_rng(1).normal(size=(4, 20))})
    whole = resample(panel, replicates=130)
    monkeypatch.setattr("evaluation.resampling._AT_ONCE", 20 * 37)
    assert resample(panel, replicates=130) == pytest.approx(whole, rel=1e-12)
    with pytest.raises(InputError, match="needs at least 100 replicates to have ends; got 10"):
        resample(panel, replicates=10)


def test_intervals_hold_the_true_gain_about_as_often_as_they_say() -> None:
    """Three seeds that differ as much as the arms' examples do: the plain bootstrap would hold far too few."""
    rng = np.random.default_rng(7)
    held = jointly = 0
    worlds = 250
    weight = np.array([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    for world in range(worlds):
        values = {}
        for b in ("x", "y"):
            of_arms = np.repeat(rng.normal(0, 0.4, (2, 40)), 3, axis=0)  # what suits one arm and not the other
            values[b] = rng.normal(0, 1, (1, 40)) + of_arms + rng.normal(0, 0.1, (6, 1)) + rng.normal(0, 0.1, (6, 40))
        panel = Panel({"a": [0, 1, 2], "b": [3, 4, 5]}, values)
        c = contrasts(panel, resample(panel, replicates=200, seed=world), weight)
        held += bool(c.low[0] <= 0 <= c.high[0])
        jointly += bool(((c.joint_low <= 0) & (c.joint_high >= 0)).all())
    assert 0.90 <= held / worlds <= 0.995
    assert 0.90 <= jointly / worlds <= 0.995


def test_more_comparisons_widen_the_joint_interval_and_not_the_single_one() -> None:
    rng = np.random.default_rng(5)
    panel = Panel({a: [3 * i, 3 * i + 1, 3 * i + 2] for i, a in enumerate("abcdef")}, {"x": rng.normal(size=(18, 50))})
    drawn = resample(panel, replicates=1000)
    weights = np.zeros((5, 6, 1))
    for k in range(5):
        weights[k, 0], weights[k, k + 1] = 1, -1
    one, all_ = contrasts(panel, drawn, weights[:1]), contrasts(panel, drawn, weights)
    assert (one.low[0], one.high[0]) == (all_.low[0], all_.high[0])
    assert all_.joint_high[0] > one.joint_high[0] and all_.joint_low[0] < one.joint_low[0]


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(MissingExtraError, match="comparing arms needs the extra 'evaluation', which isn't installed"):
        compare(*tables({"betr": 0.2}, sizes=["large"], examples=5), replicates=100)


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_true_gains_are_found_and_only_they(found: Comparison) -> None:
    assert gain(found, "betr", None).gain == pytest.approx(0.2, abs=0.03)
    verdicts = {arm: gain(found, arm, None).verdict for arm in ("betr", "dsir", "poor")}
    assert verdicts == {"betr": "better", "dsir": "open", "poor": "worse"}
    for each in found.gains:
        assert each.joint_low <= each.low <= each.gain <= each.high <= each.joint_high


def test_losses_are_plain_means(found: Comparison, frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    joined = frames[1].merge(frames[0], on="proxy_id")
    for each in found.losses:
        mine = (
            joined[(joined["arm"] == each.arm) & (joined["size"] == each.size)]
            .groupby("benchmark")["bits_per_byte"]
            .mean()
        )
        assert each.bits_per_byte == pytest.approx(mine.mean() if each.benchmark is None else mine[each.benchmark])
    of = {(e.arm, e.size, e.benchmark): e.bits_per_byte for e in found.losses}
    for g in (*found.gains, *found.pairs):
        assert g.gain == pytest.approx(of[g.over, g.size, g.benchmark] - of[g.arm, g.size, g.benchmark])


def test_a_winner_is_one_that_surely_beats_every_other(found: Comparison) -> None:
    by_place = {w.benchmark: w for w in found.winners if w.size == "large"}
    assert by_place[None].winner == "betr" and by_place[None].may_be_best == ("betr",)
    assert by_place["maths"].winner is None and set(by_place["maths"].may_be_best) == {"betr", "betr_maths"}


def test_the_diagonal_wins_where_arms_differ_and_not_where_they_do_not(found: Comparison) -> None:
    mine = [d for d in found.diagonals if d.size == "large"]
    assert [(d.rank, d.low, d.high, d.of) for d in mine] == [(1, 1, 1, 3)] * 3
    cells = {(c.arm, c.benchmark): c.gain for c in found.cells if c.size == "large"}
    assert len(cells) == 9 and cells["betr_maths", "maths"] == gain(found, "betr_maths", "maths").gain
    same = compare(*tables(dict.fromkeys(MADE_FOR, 0.0), sizes=["large"]), targets=MADE_FOR, replicates=300)
    assert all((d.low, d.high) == (1, 3) for d in same.diagonals)
    against = compare(
        *tables({a: {b: -0.2} for a, b in MADE_FOR.items()}, sizes=["large"]), targets=MADE_FOR, replicates=300
    )
    assert all((d.rank, d.low, d.high) == (3, 3, 3) for d in against.diagonals)
    assert sum("surely isn't the best" in said for said in words(against).against) == 3


def test_one_seed_gives_no_verdict() -> None:
    one = compare(*tables({"betr": 0.5}, seeds=1, sizes=["large"]), replicates=200)
    assert {g.verdict for g in (*one.gains, *one.pairs)} == {"alone"}
    assert all(w.winner is None and len(w.may_be_best) == 2 for w in one.winners)
    assert any("on one seed or one example: no verdict" in said for said in words(one, ours="betr").against)


def test_accuracy_is_told_only_where_an_arm_is_above_chance(found: Comparison) -> None:
    assert {a.benchmark for a in found.accuracies} == {"trivia"} == {g.benchmark for g in found.accuracy_gains}
    assert any("accuracy on maths isn't told, because no arm is surely above chance" in said for said in found.left_out)
    assert all(a.low <= a.accuracy <= a.high and a.low > a.chance for a in found.accuracies)
    assert all(g.verdict == "open" for g in found.accuracy_gains)
    perfect = tables({"betr": 0.1}, sizes=["large"], examples=8)
    perfect[1]["correct"] = True
    sure = compare(*perfect, chance={"maths": 0.5}, replicates=200).accuracies
    assert all(a.accuracy == 1 and a.low < 0.8 for a in sure)  # eight right answers aren't certainty
    unsaid = compare(*tables({"betr": 0.1}, sizes=["large"]), replicates=200)
    assert any(
        "accuracy on trivia isn't told, because nobody said what chance is there" in said for said in unsaid.left_out
    )


def test_chance_is_the_mean_of_one_over_the_choices() -> None:
    held_out = pd.DataFrame(
        {"benchmark": ["a", "a", "a", "b", "c"], "choices": [["x", "y"], ["x", "y", "z", "w"], ["x"], None, ["x", "y", "z"]],
         "removed": [None, None, "in the pool", None, None]}
    )  # fmt: skip
    assert chance_of(held_out) == {"a": pytest.approx(3 / 8), "c": pytest.approx(1 / 3)}


# -- what is left out, what is refused ---------------------------------------------------------------------------------


def diverged(frames: tuple[pd.DataFrame, pd.DataFrame], which: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = frames[0].copy()
    runs.loc[which, ["status", "reason"]] = ["diverged", "the loss is no number"]
    runs.loc[which, "tokens"] = 1000
    return runs, frames[1][~frames[1]["proxy_id"].isin(runs.loc[which, "proxy_id"])]


def test_a_diverged_run_is_counted_and_in_no_mean() -> None:
    frames = tables({"betr": 0.2, "dsir": 0.0}, sizes=["large"])
    broken = compare(*diverged(frames, frames[0]["proxy_id"] == "betr-large-1"), replicates=200)
    [mine] = [r for r in broken.runs if r.arm == "betr"]
    assert (mine.finished, mine.diverged, mine.reasons, mine.tokens) == (2, 1, ("the loss is no number",), 2_000_000)
    kept = frames[1][frames[1]["proxy_id"].isin(["betr-large-0", "betr-large-2"])]
    [loss] = [e.bits_per_byte for e in broken.losses if (e.arm, e.benchmark) == ("betr", "maths")]
    assert loss == pytest.approx(kept[kept["benchmark"] == "maths"]["bits_per_byte"].mean())
    assert any(
        "1 of 3 runs of betr at size large diverged (the loss is no number)" in said for said in words(broken).against
    )


def test_an_arm_or_a_size_without_a_finished_run_is_left_out_and_said() -> None:
    frames = tables({"betr": 0.2, "dsir": 0.0})
    runs, rows = diverged(frames, frames[0]["arm"].eq("dsir") & frames[0]["size"].eq("large"))
    some = compare(runs, rows, replicates=200)
    assert "size large: dsir finished no run and isn't compared" in some.left_out
    assert {g.arm for g in some.gains if g.size == "large"} == {"betr"}
    runs, rows = diverged((runs, rows), runs["arm"].eq("random") & runs["size"].eq("large"))
    less = compare(runs, rows, replicates=200)
    assert [s.size for s in less.sizes] == ["small"] and any(
        "nothing is compared there" in said for said in less.left_out
    )
    with pytest.raises(InputError, match="at no size did random and another arm finish a run"):
        compare(*diverged((runs, rows), runs["arm"].eq("random")))


def test_an_arm_that_is_left_out_changes_no_others_figures(
    found: Comparison, frames: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    runs = frames[0][frames[0]["arm"] != "poor"].sample(frac=1, random_state=1)
    without = compare(runs, frames[1].sample(frac=1, random_state=2), replicates=500)
    for g in without.gains:
        before = gain(found, g.arm, g.benchmark, g.size)
        assert (g.gain, g.low, g.high) == pytest.approx((before.gain, before.low, before.high))


def edited(column: str, value: Any, at: int = -1) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs, rows = tables({"betr": 0.2}, sizes=["large"], examples=5)
    runs.loc[runs.index[at], column] = value
    return runs, rows


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("tokens", 3_000_000, r"unequal tokens \(betr 2,000,000 to 3,000,000, random 2,000,000\).*train all on as many"),
        ("parameters", 5, "models of size large have unequal parameters"),
        ("tokenizer_id", "u", "proxy_runs: runs with tokenizer_id t and u: models that read other tokens they don't compare"),
        ("held_out_id", "g", "held_out_id g and h: measured on other examples they don't compare"),
        ("arm_id", "other", "the arm betr stands for 2 selections; choose one arm_id"),
        ("seed", 1, "betr, large, seed 1 is there twice"),
        ("status", "running", "status must be finished or diverged; got 'running'"),
        ("proxy_id", "nobody", "measures of bits_per_byte on maths are absent or no number, of model nobody first"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_refused(column: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(*edited(column, value), replicates=100)


def test_bad_calls_are_one_sentence() -> None:
    runs, rows = tables({"betr": 0.2, "other": 0.0}, sizes=["large"], examples=5)
    for change, said in (
        ({"baseline": "nothing"}, "needs runs of the baseline 'nothing' and of another arm; there are betr, other, random"),
        ({"targets": {"x": "maths"}}, "no run of the arm 'x'; there are betr, other, random"),
        ({"targets": {"betr": "chess"}}, "betr was made for 'chess', which isn't measured; measured are maths, stories, trivia"),
        ({"targets": {"betr": "maths", "other": "maths"}}, "two arms are made for the same benchmark"),
        ({"phase": "finetuned"}, "no row of the phase 'finetuned'; there are pretrained"),
        ({"level": 2}, "must be at least 0.5 and below 1; got 2"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            compare(runs, rows, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="proxy_runs: no column arm; it has "):
        compare(runs.drop(columns="arm"), rows)
    with pytest.raises(InputError, match="there is no run of a proxy model; train some first"):
        compare(runs.iloc[:0], rows)
    with pytest.raises(InputError, match="no finished model of a size was measured"):
        compare(runs, rows.assign(proxy_id="x"))
    with pytest.raises(InputError, match="two rows for one example of maths"):
        compare(runs, pd.concat([rows, rows.iloc[:1]]))
    with pytest.raises(InputError, match="the arm 'none' isn't compared at size large"):
        words(compare(runs, rows, replicates=100), ours="none")


# -- words -------------------------------------------------------------------------------------------------------------

_NUMERAL = re.compile(r"[−-]?\d[\d,.]*\d%?|[−-]?\d%?")


def numerals(value: Any) -> set[str]:
    """Every number of a result, as pages show numbers: with the decimals of any other figure near it."""
    if isinstance(value, str) or value is None:
        return set(_NUMERAL.findall(value or ""))
    if isinstance(value, Mapping):
        return set().union(*(numerals(each) for each in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(numerals(each) for each in value))
    assert isinstance(value, Real)
    figure = float(value)
    told = {number(value), percent(figure), percent(figure, 0), percent(figure)[:-1], percent(-figure)[:-1]}
    for sign in (1, -1):  # an interval has its figure's decimals
        told |= {f"{sign * figure + 0.0:,.{digits}f}".replace("-", "−") for digits in range(7)}
    return told


def test_every_number_in_words_is_one_of_the_result(found: Comparison) -> None:
    mine = numerals(as_json(found)) | {str(r.finished + r.diverged) for r in found.runs}
    for ours in (None, "betr", "poor"):
        told = words(found, ours=ours)
        sentences = (*told.told, *told.against, *told.limits)
        assert len(sentences) > 5
        for sentence in sentences:
            assert set(_NUMERAL.findall(sentence)) <= mine, sentence


def test_words_follow_the_verdicts(found: Comparison) -> None:
    told = words(found, ours="betr")
    lead = gain(found, "betr", None)
    shown = f"{lead.gain:.3f} [{lead.joint_low:.3f}, {lead.joint_high:.3f}]"
    assert told.told[0] == f"betr is better than random on the average of the benchmarks, by {shown} bits a byte."
    assert not any("betr is worse" in said or "betr can't be told" in said for said in told.against)
    assert any(said.startswith("No winner on maths: ") and "betr_maths" in said for said in told.against)
    poor = words(found, ours="poor").against
    assert sum("poor is worse than random" in said for said in poor) == 4
    assert any("poor is worse than betr on the average" in said for said in poor)
    assert any("betr at size large read its selection 1.500 times" in said for said in told.limits)


def test_an_end_that_is_not_zero_never_reads_as_zero() -> None:
    assert comparing.bits(0.02, 0.0002, 0.04) == "0.0200 [0.0002, 0.0400]"
    assert (
        comparing.bits(-0.0001, -0.03, 0.03) == "0.000 [−0.030, 0.030]"
        and comparing.bits(0.0, 0.0, 0.0) == "0.000 [0.000, 0.000]"
    )


def test_a_difference_seen_from_the_other_side_is_itself_turned(found: Comparison) -> None:
    for pair in found.pairs:
        back = turned(pair)
        assert turned(back) == pair and back.gain == -pair.gain
        assert all(a <= b for a, b in pairwise((back.joint_low, back.low, back.gain, back.high, back.joint_high)))


def test_a_result_goes_through_json_whole(found: Comparison) -> None:
    read = json.loads(json.dumps(as_json(found)))
    assert read["gains"][0]["gain"] == found.gains[0].gain
    assert set(read) == {f.name for f in dataclasses.fields(Comparison)}
    assert comparing.place(None) == "the average of the benchmarks"

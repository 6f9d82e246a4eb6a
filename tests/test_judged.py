"""What a comparison's tables tell, from synthetic losses of known laws: through the functions that the command calls."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from curation.errors import InputError
from curation.hashing import content_id
from evaluation import compare, filter_law, ledger, proxy, roi, stages
from evaluation.config import EvaluationConfig, RoiConfig
from evaluation.held_out import HeldOut
from evaluation.pipeline import Judged, judge_tables
from evaluation.proxy import Proxies, ProxyConfig
from evaluation.report import comparison_page, return_page
from evaluation.tokenizer import ProxyTokenizer
from tests.test_bare_report import Reader as PageReader

E, A, B, ALPHA, BETA = 0.9, 60.0, 300.0, 0.35, 0.4
SIZES = {"s": 300_000, "m": 1_100_000, "l": 3_400_000}
TOKENS = (250_000, 1_000_000, 4_000_000)
KEEPS = (0.03, 0.1, 0.3, 1.0)
BEND, BEST, EXPONENT = 0.02, 0.12, 0.1  # of the loss over the log of the share; the best share at 1e13 FLOPs
Frames = tuple[pd.DataFrame, pd.DataFrame]


def true_loss(n: float, d: float, *, times: float = 1.0) -> float:
    """times: how many times the compute it is worth."""
    root = math.sqrt(times)
    return E + A / (n * root) ** ALPHA + B / (d * root) ** BETA


def best_share(flops: float) -> float:
    return BEST * (flops / 1e13) ** EXPONENT


def world(
    arms: dict[str, float], *, keeps: tuple[float, ...] = (), seeds: int = 2, noise: float = 0.002, examples: int = 60,
    tokens: tuple[int, ...] = TOKENS, sizes: dict[str, int] = SIZES,
) -> Frames:  # fmt: skip
    """Runs and measures: arms that are worth so many times the compute, and arms keep:SHARE with a known best share."""
    rng = np.random.default_rng(0)
    every = {**arms, **{f"keep:{share:g}": 2.0 for share in keeps}}
    hard = {b: (h := rng.uniform(0.7, 1.3, examples)) / h.mean() for b in ("maths", "trivia")}
    runs, rows = [], []
    for arm, times in every.items():
        for size, n in sizes.items():
            for d in tokens:
                for seed in range(seeds):
                    proxy, flops = f"{arm}-{size}-{d}-{seed}", 6.0 * n * d
                    loss = true_loss(n, d, times=times)
                    if arm.startswith("keep:"):
                        loss += BEND * math.log(float(arm.partition(":")[2]) / best_share(flops)) ** 2
                    runs.append(
                        {
                            "proxy_id": proxy, "arm_id": arm, "arm": arm, "size": size, "parameters": n, "seed": seed,
                            "tokens": d, "asked": d, "epochs": 0.5, "loss": 3.0, "status": "finished", "reason": None,
                            "flops": flops, "seconds": flops / 1e10, "device": "cpu, 1 thread, float32",
                            "tokenizer_id": "t", "held_out_id": "h",
                        }
                    )  # fmt: skip
                    for b, of in hard.items():
                        bits = loss * (1.2 if b == "trivia" else 0.8) * of * math.exp(rng.normal(0, noise))
                        rows.append(pd.DataFrame({
                            "proxy_id": proxy, "phase": "pretrained", "benchmark": b, "bits_per_byte": bits,
                            "example_id": [f"{b}{k}" for k in range(examples)], "correct": None,
                        }))  # fmt: skip
    return pd.DataFrame(runs), pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return world({"random": 1.0, "betr": 2.0}, keeps=KEEPS)


@pytest.fixture(scope="module")
def judged(frames: Frames) -> Judged:
    return judge_tables(*frames, chance={}, level=0.95, replicates=300)


def test_it_is_told_at_the_most_tokens_and_laws_use_all(judged: Judged, frames: Frames) -> None:
    assert [each.sizes[-1].tokens for each in judged.by_tokens] == list(TOKENS)
    assert judged.found is judged.by_tokens[-1] and all(size.tokens == TOKENS[-1] for size in judged.found.sizes)
    runs, rows = frames
    alone = compare.compare(runs[runs["asked"] == TOKENS[-1]], rows)
    assert alone.gains == judged.found.gains  # as if the others weren't there
    assert {each.arm: each.runs for each in judged.laws.arms} == dict.fromkeys(set(runs["arm"]), 18)
    [told], against = compare.token_words(judged.by_tokens)
    assert (
        told == "Told at 4,000,000 tokens a model, the most of 250,000, 1,000,000 and 4,000,000; laws use all of them."
    )
    assert against == [] and compare.token_words([judged.found]) == ([], [])


def test_known_laws_are_recovered_from_the_tables(judged: Judged) -> None:
    laws = {each.arm: each for each in judged.laws.arms}
    average = laws["random"].average
    assert average is not None
    for name, true in (("E", E), ("alpha", ALPHA), ("beta", BETA)):
        found = getattr(average, name)
        assert found.low <= true <= found.high, (name, found)
    assert average.loss([1e6], [1e6])[0] == pytest.approx(true_loss(1e6, 1e6), rel=0.01)
    multiplier = next(each.multiplier for each in judged.laws.multipliers if each.arm == "betr")
    assert multiplier.value == pytest.approx(2.0, rel=0.06)  # along a path where N and D don't grow alike


def test_the_best_share_is_recovered_by_own_runs_and_stands_beside_the_papers(judged: Judged) -> None:
    law = judged.kept
    assert law is not None and not law.reason and law.rates == KEEPS and len(law.computes) == 9
    assert law.exponent is not None and law.exponent.low is not None and law.exponent.high is not None
    assert law.exponent.low <= EXPONENT <= law.exponent.high
    held = [(law.best(c), best_share(c)) for c in law.computes]
    assert all(
        b is not None and b.keep.low is not None and b.keep.high is not None and b.keep.low <= true <= b.keep.high
        for b, true in held
    )
    said = filter_law.words(law)
    assert (
        len(said) == 3
        and "of the tokens, by these 72 runs." in said[0]
        and said[-1].startswith("The paper's laws say nemotron")
    )
    page = PageReader(comparison_page(judged.found, by_tokens=judged.by_tokens, kept=law, laws=judged.laws)).text
    for sentence in (*said, *compare.token_words(judged.by_tokens)[0]):
        assert sentence in page
    assert "Gain by tokens" in page and json.dumps(filter_law.as_json(law))
    assert {row["law"] for row in filter_law.as_json(law)["best"]} == {"own", "nemotron", "refinedweb", "fixed-6.6b"}


def test_examples_drawn_anew_widen_the_interval_of_the_best_share(frames: Frames) -> None:
    runs, rows = frames
    few = rows[rows["example_id"].str[-1:].isin(["0"])]
    rng = np.random.default_rng(1)
    noisy = few.assign(bits_per_byte=few["bits_per_byte"] + rng.normal(0, 0.05, len(few)))
    keeps = {f"keep:{share:g}": share for share in KEEPS}
    of_runs = filter_law.of_runs(runs, noisy, keeps, replicates=500)
    mine = runs[runs["arm"].isin(list(keeps))].sort_values("proxy_id")
    loss = noisy.groupby(["proxy_id", "benchmark"])["bits_per_byte"].mean().groupby("proxy_id").mean()[mine["proxy_id"]]
    plain = filter_law.fit_filter_law(mine["flops"], mine["arm"].map(keeps), loss, replicates=500)
    assert of_runs.factor is not None and plain.factor is not None
    assert of_runs.factor.value == pytest.approx(plain.factor.value)  # the slow way to the same law
    spread = [np.nanstd(each.replicates[:, 1]) for each in (of_runs, plain)]
    assert spread[0] > spread[1]


def test_a_best_share_that_cannot_be_told_is_a_reason(frames: Frames) -> None:
    runs, rows = frames
    few = runs[(runs["asked"] == TOKENS[0]) & (runs["size"] == "s")]
    keeps = {f"keep:{share:g}": share for share in KEEPS}
    one = filter_law.of_runs(few, rows, keeps, replicates=100)
    assert one.factor is None and "at least 3 shares kept at each of 2 computes" in one.reason
    assert (
        "isn't told by these 8 runs" in filter_law.words(one)[0] and filter_law.as_json(one)["best"][0]["keep"] is None
    )
    lost = runs.assign(status=runs["status"].where(~runs["arm"].str.startswith("keep:"), "diverged"))
    none = filter_law.of_runs(lost, rows, keeps, replicates=100)
    assert none.reason == "no arm that keeps a share finished a run" and none.runs == 0
    # What lies beyond the shares tried is said to, and not told.
    beyond = filter_law.of_runs(runs[runs["arm"] != "keep:0.03"], rows, keeps, replicates=200)
    assert beyond.factor is not None
    low = filter_law.beside(beyond, [beyond.computes[0] / 1e6])[0]
    assert low == ("own", beyond.computes[0] / 1e6, None)


def test_without_arms_that_keep_a_share_there_is_no_law_of_it_and_a_count_that_compares_nothing_is_said() -> None:
    runs, rows = world({"random": 1.0, "betr": 2.0}, sizes={"s": 300_000}, tokens=TOKENS[:2], examples=8)
    runs["status"] = np.where((runs["asked"] == TOKENS[0]) & (runs["arm"] == "betr"), "diverged", "finished")
    found = judge_tables(runs, rows, chance={}, level=0.95, replicates=300)
    assert found.kept is None and len(found.by_tokens) == 1
    assert "at 250,000 tokens nothing is compared: too few arms finished a run" in found.found.left_out


def test_an_order_that_turns_with_the_tokens_is_said() -> None:
    runs, rows = world({"random": 1.0, "betr": 2.0}, sizes={"s": 300_000}, tokens=TOKENS[:2], seeds=3, examples=20)
    arm, asked = (rows["proxy_id"].map(runs.set_index("proxy_id")[name]) for name in ("arm", "asked"))
    worse = rows.assign(bits_per_byte=rows["bits_per_byte"] + 2.0 * ((arm == "betr") & (asked == TOKENS[0])))
    each = compare.by_tokens(runs, worse, replicates=200)
    _, [said] = compare.token_words(each)
    assert said.startswith("At 250,000 tokens it is the other way round: betr is worse than random on the average")
    assert said in PageReader(comparison_page(each[-1], by_tokens=each)).text


def test_numbers_of_tokens_are_numbers_each_once() -> None:
    assert EvaluationConfig(tables="t", train_tokens=(500, 100)).token_counts == (100, 500)
    assert EvaluationConfig(tables="t", train_tokens=7).token_counts == (7,)
    both = EvaluationConfig(tables="t", train_tokens=(500, 100))
    assert [each.training.tokens for each in both.each_proxies] == [500, 100] and both.proxies.training.tokens == 500
    for given, said in (((), "got none"), ((5, 5), "got 5 5")):
        with pytest.raises(InputError, match=f"--train-tokens needs numbers, each once; {said}"):
            EvaluationConfig(tables="t", train_tokens=given)


def test_several_numbers_of_tokens_are_trained_the_most_first_each_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage around the trainings: its key, what it leaves, and progress that only grows to a total that holds."""
    seen: list[tuple[int, int]] = []
    order: list[int] = []

    class Progress(SimpleNamespace):
        def advance(self, count: int) -> None:
            self.done += count
            seen.append((self.done, self.total))

    work = SimpleNamespace(progress=Progress(done=0, total=0), rows_in=0, rows_out=0, values={})
    kept: dict[str, Any] = {}

    @contextlib.contextmanager
    def stage(name: str, key: str, **_: Any) -> Iterator[Any]:
        kept["key"] = key
        yield work

    def train_proxies(tables: Any, arms: Any, config: ProxyConfig, *, on_progress: Any, **_: Any) -> Proxies:
        tokens = config.training.steps * config.training.step_tokens
        order.append(tokens)
        runs = proxy.plan([arm], config, tokenizer=shared, held_out=held_out)[1:]  # one of them is there already
        for k in range(len(runs) + 1):
            on_progress(k * tokens, len(runs) * tokens)
        ids = tuple(each.proxy_id for each in runs)
        return Proxies(ids, len(ids), 1, 5.0, 1.0, (f"said at {tokens}",))

    warned: list[str] = []
    run: Any = SimpleNamespace(
        tables=None, run_id="r", stage=stage, result=lambda *_: None, needs=lambda _: work.values, warn=warned.append
    )
    arm: Any = SimpleNamespace(arm_id="a", arm="betr", contents="c")
    shared, held_out = ProxyTokenizer("t", ""), HeldOut("h", (), {}, {})
    for where, name, stand_in in (
        (stages.tokenizer, "train_on_pool", lambda *_, **__: shared), (stages, "_pool", lambda _: None),
        (proxy, "train_proxies", train_proxies), (proxy, "working_folder", lambda *_: None),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, stand_in)
    config = EvaluationConfig(tables="t", sizes=("0.1m",), seeds=3, train_tokens=(1_000, 10_000), sequence=64, batch=8)
    left: Any = stages.train(run, config, [arm], held_out)
    assert order == [10_240, 1_024]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1] == (2 * 11_264, 2 * 11_264)
    assert all(done <= total for done, total in seen)
    assert (work.rows_out, len(left["proxy_ids"]), left["diverged"], left["flops"]) == (2 * 11_264, 4, 2, 10.0)
    assert warned[:2] == ["at 10,000 tokens said at 10240", "at 1,000 tokens said at 1024"]
    both = kept["key"]
    stages.train(run, dataclasses.replace(config, train_tokens=(10_000, 1_000)), [arm], held_out)
    assert kept["key"] == both  # the order in which they are named is nothing
    stages.train(run, dataclasses.replace(config, train_tokens=10_000), [arm], held_out)
    [alone] = [proxy.plan([arm], each, tokenizer=shared, held_out=held_out) for each in config.each_proxies[:1]]
    assert kept["key"] == content_id("proxies", sorted(each.proxy_id for each in alone)) and warned[-2] == "said at 10240"


# -- cost and return ---------------------------------------------------------------------------------------------------

SPENT = [
    ("choosing", "import", 60.0, 2, 0, None, None), ("choosing", "targets", 10.0, 2, 0, None, None),
    ("choosing", "sample", 10.0, 2, 0, None, None), ("choosing", "embed", 400.0, 2, 1, None, None),
    ("choosing", "score", 120.0, 2, 0, None, None), ("choosing", "select", 20.0, 2, 0, None, None),
    ("other ways to choose", "arm/betr", 5.0, 2, 0, None, None),
    ("small models", "held-out", 30.0, 2, 0, None, None),
    ("writing", "bare/draft", 100.0, 0, 0, 50_000, 3.0),
]  # fmt: skip
PRICES = roi.PriceTable(core_hour=0.05, gpu_hour=2.0, currency="EUR")


def returned(judged: Judged, runs: pd.DataFrame, **asked: Any) -> roi.Return:
    spent = pd.concat([pd.DataFrame(SPENT, columns=roi.COLUMNS), ledger.of_proxies(runs)], ignore_index=True)
    config = RoiConfig(tables="t", prices="p.yaml", times_a_year=12, value_per_point=10.0, **asked)
    return ledger.return_of(spent, runs, PRICES, config, judged.found, judged.laws)


def test_the_ledger_holds_every_part_and_each_arm_pays_for_what_it_needs(judged: Judged, frames: Frames) -> None:
    runs, _ = frames
    found = returned(judged, runs)
    parts = {each.part: each for each in found.parts}
    assert list(parts) == ["choosing", "other ways to choose", "small models", "writing"]
    assert found.total == pytest.approx(sum(each.cost for each in found.parts)) and parts["writing"].cost == 3.0
    models = runs["seconds"].sum() / 3600 * PRICES.core_hour  # type: ignore[operator]
    assert parts["small models"].cost == pytest.approx(models + 60 / 3600 * 0.05)
    assert parts["small models"].tokens == runs["tokens"].sum()
    ways = {each.name: each for each in found.ways}
    assert set(ways) == {f"{arm} over random" for arm in ("betr", *(f"keep:{share:g}" for share in KEEPS))}
    assert [stage for stage, _ in ways["betr over random"].stages] == [
        "import",
        "targets",
        "sample",
        "embed",
        "score",
        "select",
    ]
    assert found.gains[0].cost == ways["betr over random"].cost == pytest.approx(1240 / 3600 * 0.05 + 400 / 3600 * 2.0)
    assert ledger.paid_by("direct", ["import", "embed", "arm/direct", "arm/dsir", "targets"]) == (
        "import",
        "arm/direct",
        "targets",
    )
    assert ledger.paid_by("bare:0.1", ["import", "bare/draft", "arm/bare:0.1"]) == (
        "import",
        "bare/draft",
        "arm/bare:0.1",
    )
    assert ledger.paid_by("random", ["import", "sample", "arm/random"]) == ("import", "arm/random")
    assert json.dumps(roi.as_json(found))


def test_a_devices_name_says_what_a_run_held() -> None:
    assert ledger.machine("cpu, 1 thread, float32") == (1, 0) and ledger.machine("cpu, 8 threads, bfloat16") == (8, 0)
    assert ledger.machine("NVIDIA H100 80GB HBM3, bfloat16") == (1, 1)


def test_equal_cost_longer_training_and_break_even_are_those_of_the_true_laws(judged: Judged, frames: Frames) -> None:
    """Choosing costs a tenth of the planned training: betr on 10/11 of the tokens beside random on all of them."""
    runs, _ = frames
    choosing = returned(judged, runs).gains[0].cost
    found = returned(judged, runs, training_cost=10 * choosing)
    equal = found.equal_cost
    assert equal is not None and equal.gain is not None and equal.planned and equal.extra == pytest.approx(0.1)
    n, d = SIZES["l"], TOKENS[-1]
    true = true_loss(n, d) - true_loss(n, d / 1.1, times=2.0)
    assert equal.gain.low is not None and equal.gain.high is not None and equal.gain.low <= true <= equal.gain.high
    assert equal.gain.value == pytest.approx(true, rel=0.2)
    plain = found.longer
    assert plain is not None and plain.tokens is not None and plain.extrapolated
    wanted = true_loss(n, d, times=2.0)
    needed = (B / (wanted - E - A / n**ALPHA)) ** (1 / BETA)
    assert plain.tokens.low is not None and plain.tokens.low <= needed <= (plain.tokens.high or math.inf)
    even = found.break_even
    assert (
        even is not None and even.training is not None and even.training.value == pytest.approx(2 * choosing, rel=0.2)
    )
    said = " ".join(roi.words(found).gain)
    assert "At equal cost betr is" in said and "ahead of plain training, by the laws of the small models." in said
    page = PageReader(return_page(found)).text
    for sentence in (*roi.words(found).gain, *roi.words(found).running, *roi.words(found).against):
        assert " ".join(sentence.split()) in page
    for headings in ("Every way to choose that was compared", "All that was done, by part", "reads the documents"):
        assert headings in page


def test_equal_cost_that_lies_beyond_the_runs_or_has_no_laws_is_a_reason(judged: Judged, frames: Frames) -> None:
    runs, _ = frames
    own = returned(judged, runs)  # beside a small model's training choosing costs a lot
    cost = (
        runs[(runs["arm"] == "random") & (runs["size"] == "l") & (runs["asked"] == TOKENS[-1])]["seconds"].mean()
        / 3600
        * 0.05
    )
    assert own.equal_cost is not None and own.equal_cost.training == pytest.approx(cost) and not own.equal_cost.planned
    assert own.equal_cost.gain is not None and own.equal_cost.gain.high is not None and own.equal_cost.gain.high < 0
    assert "At equal cost betr is 0.2" in " ".join(roi.words(own).gain) and "behind plain training" in " ".join(
        roi.words(own).gain
    )
    assert "For the same money plain training is as good or better." in roi.words(own).against
    dear = returned(judged, runs, training_cost=0.001)
    assert dear.equal_cost is not None and dear.equal_cost.gain is None
    assert " a training, so that the arm would be left with" in dear.equal_cost.reason
    assert any(each.startswith("equal cost: choosing costs") for each in dear.reasons)
    one = judge_tables(runs[runs["size"] == "l"], frames[1], chance={}, level=0.95, replicates=300)
    few = returned(one, runs[runs["size"] == "l"], training_cost=1e6)
    assert any("equal cost: random: the law can't be fitted" in each for each in few.reasons)
    assert any("training longer: random: the law can't be fitted" in each for each in few.reasons)
    assert any("break-even: betr: the law" in each or "break-even: random: the law" in each for each in few.reasons)


def test_what_written_rows_brought_is_set_against_what_they_cost() -> None:
    runs, rows = world({"random": 1.0, "betr": 2.0, "bare:0.1": 3.0}, sizes={"s": 300_000}, tokens=(250_000,), seeds=3)
    found = judge_tables(runs, rows, chance={}, level=0.95, replicates=300)
    told = returned(found, runs, bare="b")
    assert [each.name for each in told.gains] == ["betr over random", "bare:0.1 over betr"]
    assert told.gains[1].cost == 3.0 and told.gains[1].gain.value == pytest.approx(
        (true_loss(3e5, 2.5e5, times=2.0) - true_loss(3e5, 2.5e5, times=3.0)), rel=0.1
    )
    assert any("`bare` doesn't record it" in each for each in told.reasons)
    assert not any("no arm bare:SHARE was compared" in each for each in told.reasons)
    cheap = returned(found, runs, arm="bare:0.1")
    assert cheap.gains[0].cost > told.gains[0].cost and "bare/draft" in dict(cheap.gains[0].stages)


def test_right_answers_that_are_told_everywhere_make_the_effect() -> None:
    runs, rows = world({"random": 1.0, "betr": 2.0}, sizes={"s": 300_000}, tokens=(250_000,), seeds=3, examples=200)
    arm = rows["proxy_id"].str.partition("-")[0]
    known = np.random.default_rng(3).random(len(rows)) < np.where(arm == "betr", 0.8, 0.5)
    found = judge_tables(
        runs, rows.assign(correct=known), chance={"maths": 0.25, "trivia": 0.25}, level=0.95, replicates=300
    )
    told = returned(found, runs)
    assert told.gains[0].unit == "points" and told.gains[0].gain.value == pytest.approx(30, abs=5)
    assert told.effect is not None and told.effect.a_year.value == pytest.approx(10 * told.gains[0].gain.value)
    assert "Right answers on the average of the benchmarks: betr has" in " ".join(compare.words(found.found).told)

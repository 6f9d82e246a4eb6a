"""Proxies on tables: held-out examples, token files, runs in tasks, resumed and never repeated."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from betr.benchmarks import parse_sources
from betr.selection import SELECTION_RUNS, SELECTIONS, SelectionConfig
from betr.tables import BENCHMARK_EXAMPLES, CONTAMINATED_DOCUMENTS, DOCUMENTS
from curation.decontamination import DecontaminationConfig
from curation.errors import InputError
from curation.overlap import words
from curation.tables import Tables
from evaluation import proxy
from evaluation.held_out import (
    IN_POOL,
    TRAINING_EXAMPLE,
    Asking,
    HeldOut,
    HeldOutConfig,
    contaminated,
    hold_out,
    read_asked,
    training_texts,
)
from evaluation.measuring import Example, FinetuningConfig, measure
from evaluation.packing import Stream, TokenDocuments
from evaluation.proxy import Arm, ProxyConfig, TokenFiles, plan, tokenise, train_proxies, working_folder
from evaluation.runs import Told
from evaluation.tables import ARMS, EVALUATIONS, HELD_OUT_EXAMPLES, PROXY_RUNS, TOKENIZERS
from evaluation.tokenizer import ProxyTokenizer, train_on_pool
from evaluation.training import DIVERGED, FINISHED, TrainingConfig, load_model, parse_size
from tests.helpers import commits, write_lines

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.processes, pytest.mark.slow]  # beside the others, under Spark Connect

THINGS = ("river", "stone", "cloud", "lamp", "fox", "boat", "seed", "wind", "bell", "road")
LEAKED = "Which animal with a bushy tail hunts alone at night near the old farm?"
TEXTS = {
    **{f"a{k}": f"The {THINGS[k]} is near the {THINGS[k - 1]}, and the {THINGS[k - 2]} is far." for k in range(10)},
    **{f"b{k}": f"x{k} = {k} + {k + 1}; print(x{k}) # sum of {k} and {k + 1}" for k in range(10)},
    "b10": f"Quiz page. {LEAKED} Nobody knows it.",
}
HELD_OUT: dict[str, list[dict[str, Any]]] = {
    "near": [
        {"question": "What is near the stone?", "choices": ["the river", "the print"], "answer": 0},
        {"question": "What is near the cloud?", "choices": ["a naïve sum", "the stone"], "answer": 1},
        {"question": LEAKED, "choices": ["fox", "hen"], "answer": 0},
        {"question": "What do targets hold?", "choices": ["this", "that"], "answer": 1},
        {"question": "no answer"},
    ],
    "sums": [{"question": "4 + 5?", "answer": "9"}, {"question": "4 + 5?", "answer": "9"}],
}
TRAINING = TrainingConfig(tokens=30 * 64, sequence=16, batch=4, learning_rate=0.01, checkpoint_seconds=0)
CONFIG = ProxyConfig(("16x1x2",), seeds=1, training=TRAINING, finetuning=FinetuningConfig(epochs=1, batch=2))
TUNED = (Example("t", "near", "What is near the lamp?\n", ("the cloud",), 0),)


@dataclass
class World:
    tables: Tables
    working: Path
    asking: Asking
    tokenizer: ProxyTokenizer
    held_out: HeldOut
    done: proxy.Proxies

    def train(self, config: ProxyConfig, working: Path | None = None, **more: Any) -> proxy.Proxies:
        return train_proxies(
            self.tables, proxy.arms(self.tables), config, tokenizer=self.tokenizer, held_out=self.held_out,
            working=working or self.working, finetuning=TUNED, **more,
        )  # fmt: skip

    def job(self, working: Path, training: TrainingConfig = TRAINING) -> proxy._Job:
        return proxy._Job(
            training, CONFIG.finetuning, self.tokenizer, self.held_out.examples, TUNED, str(working), local=False
        )

    def evaluations(self, proxy_id: str) -> list[tuple[Any, ...]]:
        rows = self.tables.read(EVALUATIONS).where(F.col("proxy_id") == proxy_id).collect()
        return sorted((row["phase"], row["example_id"], row["nats"], row["bytes"], row["correct"]) for row in rows)


def fill(tables: Tables) -> None:
    """A pool of twenty-one documents, two selections, and an arm of each."""
    spark = tables.spark
    rows: list[Any] = [
        (doc, text, "s", None, len(text.encode()), {}, "f", doc, f"i-{doc[0]}") for doc, text in sorted(TEXTS.items())
    ]
    tables.append(DOCUMENTS, DOCUMENTS.frame(spark, rows), keys_are_unique=True)
    chosen = [(f"sel-{doc[0]}", doc, 1.0 if doc[0] == "a" else 7.5) for doc in TEXTS]
    tables.append(SELECTIONS, SELECTIONS.frame(spark, chosen), keys_are_unique=True)
    cut = {**vars(SelectionConfig(keep=0.5, decontamination_id="d")), "cuts": {}}
    tables.append(SELECTION_RUNS, SELECTION_RUNS.frame(spark, [
        ("sel-b", "b", 1, "c", "hard", 0.5, 1, None, None, 1, 1, 1, 1, json.dumps(cut), "r", "2026")
    ]), keys_are_unique=True)  # fmt: skip
    pieces = [{"start": 0, "end": 10}, {"start": len(TEXTS["b10"]) - 16, "end": len(TEXTS["b10"])}]
    tables.append(CONTAMINATED_DOCUMENTS, CONTAMINATED_DOCUMENTS.frame(spark, [
        ("d", "b10", "cut", None, 1, 1, pieces, len(TEXTS["b10"]), 26, ["near"])
    ]), keys_are_unique=True)  # fmt: skip
    tables.append(ARMS, ARMS.frame(spark, [
        ("arm-a", "near", "direct", "sel-a", 10, 300, "{}", "r", "2026"),
        ("arm-b", "sums", "random", "sel-b", 11, 300, "{}", "r", "2026"),
        ("arm-0", "sums", "random", "sel-a", 10, 300, "{}", "r", "2025"),
    ]), keys_are_unique=True)  # fmt: skip


@pytest.fixture(scope="module")
def world(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two arms, a model of each, in one undisturbed run."""
    folder = tmp_path_factory.mktemp("proxies")
    tables = Tables(spark, str(folder / "tables"), run_id="r1")
    fill(tables)
    paths = [str(write_lines(folder / f"{name}.jsonl", rows)) for name, rows in HELD_OUT.items()]
    asking = read_asked(spark, parse_sources(paths, option="--held-out"))
    pool = tables.read(DOCUMENTS)
    tokenizer = train_on_pool(tables, pool, vocabulary=320)
    target = ("targets", "e", "near", "train", "what do targets hold?\nTHAT", "f", 1)
    tables.append(BENCHMARK_EXAMPLES, BENCHMARK_EXAMPLES.frame(spark, [target]), keys_are_unique=True)
    held_out = hold_out(tables, asking, HeldOutConfig(), documents=pool, training_texts=training_texts(tables))
    made = World(tables, working_folder(tables), asking, tokenizer, held_out, proxy.Proxies((), 0, 0, 0, 0, ()))
    made.done = made.train(CONFIG)
    return made


# -- held-out examples -------------------------------------------------------------------------------------------------


@pytest.mark.night
def test_what_was_trained_on_or_stands_in_the_pool_is_not_measured_and_is_counted(world: World) -> None:
    assert world.asking.counts == {"near": 4, "sums": 1}
    assert world.asking.rejected == {"near": {"no_answer": 1}} and world.asking.duplicates == {"sums": 1}
    assert world.held_out.counts == {"near": 2, "sums": 1}
    assert world.held_out.removed == {"near": {IN_POOL: 1, TRAINING_EXAMPLE: 1}}
    rows = {row["question"]: row["removed"] for row in world.tables.read(HELD_OUT_EXAMPLES).collect()}
    assert len(rows) == 5 and rows[LEAKED + "\n"] == IN_POOL
    assert rows["What do targets hold?\n"] == TRAINING_EXAMPLE


@pytest.mark.night
def test_a_second_time_nothing_is_searched_or_written_and_contamination_may_be_refused(world: World) -> None:
    def again(**changed: Any) -> HeldOut:
        pool = world.tables.read(DOCUMENTS)
        texts = training_texts(world.tables)
        return hold_out(world.tables, world.asking, HeldOutConfig(**changed), documents=pool, training_texts=texts)

    folder = Path(world.tables.path(HELD_OUT_EXAMPLES))
    before = commits(folder)
    assert again() == world.held_out
    with pytest.raises(InputError, match=r"1 of 5 held-out examples stand in the pool \(near 1"):
        again(on_contamination="refuse")
    assert commits(folder) == before
    assert train_on_pool(world.tables, world.tables.read(DOCUMENTS), vocabulary=320) == world.tokenizer
    assert commits(Path(world.tables.path(TOKENIZERS))) == 1


def test_an_example_is_contaminated_where_one_of_its_own_ngrams_stands_in_a_run() -> None:
    """Against the obvious: n-grams of 5 words, or a shorter text of 3 words on as a whole, among the pool's."""
    settings = DecontaminationConfig(shortest=3, longest=5)
    rng = np.random.default_rng(0)
    vocabulary = ["a", "b", "c"]

    def text(most: int) -> str:
        return " ".join(rng.choice(vocabulary, int(rng.integers(1, most))))

    seen = set()
    for _ in range(60):
        pool = [words(text(12)) for _ in range(2)]
        owners = [(Example(str(k), "x", "", ("y",), 0), text(9)) for k in range(6)]
        runs = {tuple(doc[i : i + n]) for doc in pool for n in (3, 4, 5) for i in range(len(doc) - n + 1)}
        expected = []
        for example, of_it in owners:
            mine = words(of_it)
            n = min(5, len(mine))
            grams = {tuple(mine[i : i + n]) for i in range(len(mine) - n + 1)} if n >= 3 else set()
            if grams & runs:
                expected.append(example.example_id)
        assert contaminated(owners, [" ".join(run) for run in sorted(runs)], settings) == expected
        seen.add(len(expected))
    assert len(seen) > 3


def test_a_file_without_a_question_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "odd.jsonl", [{"a": 1}])
    with pytest.raises(InputError, match=r"odd has no question with an answer \(unknown_shape 1\)"):
        read_asked(spark, parse_sources([str(path)]))


# -- arms and tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.night
def test_an_arms_tokens_are_its_selected_texts_and_a_cut_document_is_its_pieces(world: World) -> None:
    near, sums = proxy.arms(world.tables)
    assert (near.arm_id, sums.arm_id) == ("arm-a", "arm-b"), "of two arms of one name the later"
    texts = {row["doc_id"]: row["text"] for row in sums.texts.collect()}
    whole = {doc: text for doc, text in TEXTS.items() if doc[0] == "b" and doc != "b10"}
    assert texts == {**whole, "b10#0": "Quiz page.", "b10#1": TEXTS["b10"][-16:]}
    files = tokenise(sums, world.tokenizer, world.working, tokens=100)
    assert files.documents == 12 and files.share == 1
    read = TokenDocuments.open(Path(files.folder), files.parts, end=world.tokenizer.end)
    epoch = Stream(read, 0).read(0, read.total).tolist()
    found = world.tokenizer.decode(epoch).split("<|end|>")
    assert sorted(found) == sorted(["", *texts.values()]) and files.tokens == read.total
    with pytest.raises(InputError, match="arm elsewhere: there is none"):
        proxy.arms(world.tables, ["elsewhere"])


@pytest.mark.night
def test_of_an_arm_much_larger_than_needed_a_share_is_tokenised_by_hash(world: World, tmp_path: Path) -> None:
    near = replace(proxy.arms(world.tables)[0], tokens=300)
    files = tokenise(near, world.tokenizer, tmp_path, tokens=30)
    assert files.share == pytest.approx(0.4) and 0 < files.documents < 10
    assert tokenise(near, world.tokenizer, tmp_path, tokens=30) == files, "a second time it is only read"
    lost = replace(near, contents="lost", texts=near.texts.withColumn("text", F.lit(None).cast("string")))
    with pytest.raises(InputError, match="has no text any more"):
        tokenise(lost, world.tokenizer, tmp_path, tokens=300)
    nothing = replace(near, contents="nothing", texts=near.texts.where("false"))
    with pytest.raises(InputError, match="arm near holds no documents"):
        tokenise(nothing, world.tokenizer, tmp_path, tokens=300)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.night
def test_every_arm_trains_on_equal_tokens_and_repetitions_are_said(world: World) -> None:
    runs = {row["arm"]: row for row in world.tables.read(PROXY_RUNS).where(F.col("status") == FINISHED).where("seed = 0").collect()}
    assert set(runs) == {"near", "sums"} and world.done.trained == 2 and not world.done.diverged
    for row in runs.values():
        assert row["tokens"] == 30 * 64 and row["steps"] == 30 and row["epochs"] > 4
        assert row["flops"] == 6 * row["parameters"] * row["tokens"] and row["loss"] < math.log(320)
        assert row["seconds"] > 0 and row["tokens_per_second"] > 0 and row["device"].startswith(("cpu, 1 thread", "NV"))
        assert (row["tokenizer_id"], row["held_out_id"], row["run_id"]) == (
            *(world.tokenizer.tokenizer_id, world.held_out.held_out_id, "r1"),
        )
        assert json.loads(row["settings"])["training"]["sequence"] == 16
    assert len(world.done.warnings) == 2
    assert all("each is seen" in said and "worth less" in said for said in world.done.warnings)


@pytest.mark.night
def test_evaluations_are_those_of_the_kept_weights_in_both_phases(world: World) -> None:
    for proxy_id in world.done.proxy_ids:
        rows = world.evaluations(proxy_id)
        assert len(rows) == 2 * 3 and {row[0] for row in rows} == {"pretrained", "finetuned"}
        path = world.working / "runs" / proxy_id / "model.safetensors"
        model = load_model(path, parse_size("16x1x2"), vocabulary=world.tokenizer.vocabulary, context=16)
        found = measure(model, world.tokenizer, world.held_out.examples, context=16)
        kept = {row[1]: row for row in rows if row[0] == "pretrained"}
        for each in found:
            assert kept[each.example_id][2] == pytest.approx(each.nats, rel=1e-5)
            assert kept[each.example_id][3:] == (each.bytes, each.correct)
        tuned = {row[1]: row[2] for row in rows if row[0] == "finetuned"}
        assert all(tuned[each.example_id] != each.nats for each in found)
    assert world.tables.read(EVALUATIONS).where("abs(bits_per_byte - nats / ln(2) / bytes) > 1e-9").isEmpty()


@pytest.mark.night
def test_a_second_run_trains_nothing_and_writes_nothing(world: World) -> None:
    folders = [Path(world.tables.path(spec)) for spec in (PROXY_RUNS, EVALUATIONS)]
    before = [commits(each) for each in folders]
    told: list[tuple[int, int]] = []
    again = world.train(CONFIG, on_progress=lambda done, wanted: told.append((done, wanted)))
    assert again.trained == 0 and again.proxy_ids == world.done.proxy_ids
    assert [commits(each) for each in folders] == before and set(told) == {(0, 0)}


@pytest.mark.night
def test_what_was_killed_goes_on_from_its_checkpoint_and_what_was_through_is_only_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1 of two arms: one is killed in its training, the other finished when the driver dies."""
    config = replace(CONFIG, seeds=2)
    arms = {arm.arm_id: arm for arm in proxy.arms(world.tables)}
    runs = [
        replace(run, files=tokenise(arms[run.arm_id], world.tokenizer, world.working, tokens=TRAINING.tokens))
        for run in plan(
            list(arms.values()), config, tokenizer=world.tokenizer, held_out=world.held_out, finetuning=TUNED
        )
        if run.seed == 1
    ]
    assert len(runs) == 2
    before = torch.get_num_threads()
    undisturbed = [proxy.run_one(run, world.job(tmp_path)) for run in runs]

    told = Told.__call__

    def kill(self: Any, step: int, loss: float) -> None:
        told(self, step, loss)
        if step == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Told, "__call__", kill)
        with pytest.raises(KeyboardInterrupt):
            proxy.run_one(runs[0], world.job(world.working))
    through = proxy.run_one(runs[1], world.job(world.working))
    torch.set_num_threads(before)
    there = sorted(path.name for path in (world.working / "runs" / runs[0].proxy_id).iterdir())
    assert there == ["checkpoint.safetensors", "progress"]

    done = world.train(config)
    assert done.trained == 2
    rows = {row["proxy_id"]: row for row in world.tables.read(PROXY_RUNS).where("seed = 1").collect()}
    assert rows[runs[1].proxy_id]["seconds"] == through["seconds"], "it was not trained again"
    resumed = json.loads((world.working / "runs" / runs[0].proxy_id / "result.json").read_text())
    assert resumed["resumed_at"] == 11
    for run, expected in zip(runs, undisturbed, strict=True):
        assert rows[run.proxy_id]["loss"] == expected["loss"] and rows[run.proxy_id]["epochs"] == expected["epochs"]
        table = world.tables.spark.read.parquet(str(tmp_path / "runs" / run.proxy_id / "evaluations.parquet")).collect()
        assert world.evaluations(run.proxy_id) == sorted(
            (r["phase"], r["example_id"], r["nats"], r["bytes"], r["correct"]) for r in table
        )
        assert not (world.working / "runs" / run.proxy_id / "checkpoint.safetensors").exists()


@pytest.mark.night
def test_a_diverged_run_is_recorded_and_gives_no_evaluation(world: World) -> None:
    wild = replace(TRAINING, tokens=200 * 64, learning_rate=50.0, warmup=0.3, clip=1e9)
    done = world.train(replace(CONFIG, training=wild))
    assert done.diverged == done.trained == 2
    rows = world.tables.read(PROXY_RUNS).where(F.col("proxy_id").isin(*done.proxy_ids)).collect()
    assert {row["status"] for row in rows} == {DIVERGED} and all(row["reason"] for row in rows)
    assert all(row["tokens"] < 200 * 64 for row in rows)
    assert not any(world.evaluations(proxy_id) for proxy_id in done.proxy_ids)
    assert world.train(replace(CONFIG, training=wild)).trained == 0, "nor is it tried again"


@pytest.mark.night
def test_an_arm_that_would_be_repeated_too_often_is_refused_before_anything_is_trained(world: World) -> None:
    strict = replace(TRAINING, most_epochs=2.0, tokens=31 * 64)
    with pytest.raises(InputError, match=r"arm near holds \d+ tokens, and 1,984 would repeat them"):
        world.train(replace(CONFIG, training=strict))


# -- which runs there are ----------------------------------------------------------------------------------------------


def test_a_runs_id_hangs_on_all_that_its_result_hangs_on_and_on_nothing_else() -> None:
    held_out, tokenizer = HeldOut("h", (), {}, {}), ProxyTokenizer("t", "")
    one = Arm("1", "x", "s", None)  # type: ignore[arg-type]

    def ids(config: ProxyConfig = CONFIG, arm: Arm = one, **changed: Any) -> list[str]:
        found = {"tokenizer": tokenizer, "held_out": held_out, "finetuning": TUNED, **changed}
        return [run.proxy_id for run in plan([arm], config, **found)]

    same = replace(CONFIG, training=replace(TRAINING, checkpoint_seconds=9.0, most_epochs=5.0), gpus_per_task=1)
    assert ids() == ids(same) and ids() == ids(arm=replace(one, arm="renamed"))
    assert ids() == ids(replace(CONFIG, seeds=2))[:1], "more seeds are more runs beside those there are"
    others = [
        ids(replace(CONFIG, sizes=("32x1x2",))), ids(replace(CONFIG, training=replace(TRAINING, tokens=64))),
        ids(replace(CONFIG, finetuning=None)), ids(finetuning=()), ids(arm=replace(one, contents="other")),
        ids(tokenizer=ProxyTokenizer("u", "")), ids(held_out=HeldOut("i", (), {}, {})),
    ]  # fmt: skip
    assert others[2] == others[3], "no example to fine-tune on is no fine-tuning"
    assert len({tuple(each) for each in [ids(), *others]}) == 7


def test_the_dear_runs_come_first() -> None:
    config = ProxyConfig(("0.1m", "1m"), seeds=2)
    arms = [Arm(name, name, name, None) for name in "ab"]  # type: ignore[arg-type]
    runs = plan(arms, config, tokenizer=ProxyTokenizer("t", ""), held_out=HeldOut("h", (), {}, {}))
    assert [run.size.name for run in runs] == ["1m"] * 4 + ["0.1m"] * 4
    assert [(run.seed, run.arm) for run in runs[:4]] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


@pytest.mark.night
def test_a_missing_token_file_names_the_working_folder(world: World, tmp_path: Path) -> None:
    run = proxy.ProxyRun("p", "a", "a", parse_size("16x1x2"), 0, TokenFiles(str(tmp_path), ("no",), 1, 1, 1.0))
    before = torch.get_num_threads()
    with pytest.raises(InputError, match="on a shared file system"):
        proxy.run_one(run, world.job(tmp_path))
    torch.set_num_threads(before)

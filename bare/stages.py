"""The stages as steps on tables: what each reads and commits (measures, judge and rounds: `measuring`).

A wave is committed stage by stage. What a killed run left of a wave is gone on from: a wave that has drafts and no
verdicts is finished before another one is begun, and everything in it follows from its rows' own hashes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from bare import checking
from bare.checking import ACCEPTED_A_TASK, Rules
from bare.collapse import Settings, seed_pool
from bare.config import ARMS, BareConfig
from bare.cost import check_licenses, load_prices
from bare.draws import hash64, row_seed
from bare.generation import Asking, Model, complete
from bare.generators.load import GeneratorSettings, Role, describe
from bare.generators.protocol import Prompt, Sampling
from bare.generators.spec import parse_generator, priced_as
from bare.judge import REAL
from bare.personas import persona_of
from bare.run import Making, Run, call_sums
from bare.tables import DRAFTS, GENERATIONS, REFINED, REJECTED_SEEDS, ROUNDS, ROW_EMBEDDINGS, SEEDS, VERDICTS
from bare.tasks import Seed, Seeds, Task, check_seeds, draw_shots, parse_task, read_seeds, task_text
from bare.verdicts import SeedIndex
from curation import jsonlines
from curation.embedding import embedding_profile, resolve_encoder
from curation.errors import InputError
from curation.hashing import content_id
from curation.held_out import TestIndex
from curation.session import TaskWatch, default_parallelism, is_local_session, release, share
from curation.tables import is_local

MOST_SEEDS = 1_000_000


# -- what rows are made from -------------------------------------------------------------------------------------------


def prepare(run: Run) -> Making:
    """Look at everything that a run names before any token is made: task, seeds, models, licences, prices, tests."""
    config = run.config
    if not config.task:
        raise InputError("--task is missing: name a shipped task or a YAML file")
    text, where = task_text(config.task)
    task = parse_task(text, where=where)
    seeds = _read_seeds(run, task)
    shots, real, held_out = hold_out(task, seeds, share=config.hold_out, seed=config.seed)
    if config.hold_out and not held_out:
        run.warn(f"{len(seeds)} seeds are too few to hold some out: measures and judge compare with those shown")
    drafter, refiner = _models(run)
    if config.judge is not None:  # a judge that can't be asked is told of before any row is made
        judge_model(run)
        if len(real) < REAL:
            raise InputError(f"--judge compares with {REAL} real rows, but there are {len(real)}; give more seeds")
    check_gate(run, seeds, [model for model in (drafter, refiner) if model is not None])
    encoder = resolve_encoder(config.encoding)
    texts = [task.text_of(seed.fields) for seed in seeds.seeds]
    vectors = encoder.load("cpu").encode(texts, "document")
    tests = _test_texts(run)
    rules = Rules(
        task=task,
        seeds=SeedIndex.of(task, seeds, config.verdicts, vectors=vectors),
        tests=TestIndex.of(tests, shortest=config.verdicts.shortest_test, longest=config.verdicts.longest_test)
        if tests
        else None,
        config=config.verdicts,
        drafts=refiner is None and ARMS[config.arm][0] == "base",
    )
    settings = _first_settings(config, task)
    seeds_id = content_id([seed.seed_id for seed in seeds.seeds], config.hold_out, config.seed)
    made_from: dict[str, Any] = {
        "task": task.task_id,
        "seeds": seeds_id,
        "arm": config.arm,
        "drafter": [drafter.name, drafter.revision],
        "refiner": [refiner.name, refiner.revision] if refiner else None,
        "precision": [model.settings.precision for model in (drafter, refiner) if model is not None],
        "settings": dataclasses.asdict(settings),
        "max_new_tokens": config.max_new_tokens,
        "refine_shots": config.refine_shots,
        "share_shots": config.share_shots,
        "verdicts": dataclasses.asdict(config.verdicts),
        "tests": content_id(sorted(tests)),
        "encoder": encoder.encoder_id,
        "seed": config.seed,
    }
    if config.rounds > 1:  # which items are of which round, and what control does, is part of what rows are
        made_from["rounds"] = [config.rounds, config.accepted, config.control, config.pool]
    making = Making(
        generation_id=content_id("generation", made_from),
        task=task, shots=shots, real=real, held_out=held_out,
        drafter=drafter, refiner=refiner, encoder=encoder, rules=rules, settings=settings,
    )  # fmt: skip
    _write_making(run, making, text, seeds, seeds_id)
    run.begin(making)
    return making


def reopen(run: Run) -> Making:
    """What an earlier run made, by --generation or the latest, as its tables tell: no file of its making is needed."""
    tables, wanted = run.tables, run.config.generation
    rows = tables.read(GENERATIONS).orderBy(F.desc("created"), "generation_id").collect()
    if not rows:
        raise InputError(f"{tables.root} holds no generation yet: make one with `bare run`")
    row = next((r for r in rows if wanted in (None, r["generation_id"])), None)
    if row is None:
        there = ", ".join(r["generation_id"] for r in rows)
        raise InputError(f"--generation {wanted}: there is none in {tables.root}; there are {there}")
    run.config = _stored_config(run, json.loads(row["settings"]))
    config = run.config
    task = parse_task(row["task_definition"], where=f"task {row['task']}")
    rows = tables.read(SEEDS).where(F.col("seeds_id") == row["seeds_id"]).orderBy("seed_id").collect()
    seeds = [(r["role"], Seed(r["seed_id"], dict(r["fields"]), r["label"], r["source_id"], r["license"])) for r in rows]
    shots, real = (Seeds(tuple(s for role, s in seeds if role == wanted_role)) for wanted_role in ("shot", "real"))
    every = Seeds(tuple(seed for _, seed in seeds))
    encoder = resolve_encoder(config.encoding)
    role, refines = ARMS[row["arm"]]
    models = {
        kind: Model(
            row[kind] or "", row[f"{kind}_revision"], row[f"{kind}_license"], settings=GeneratorSettings(role=kind)
        )
        for kind in get_args(Role)
    }
    index = SeedIndex.of(task, every, config.verdicts)
    rules = Rules(task, index, tests=None, config=config.verdicts, drafts=role == "base" and not refines)
    making = Making(
        generation_id=row["generation_id"], task=task, shots=shots, real=real if len(real) else every,
        held_out=bool(len(real)), drafter=models[role], refiner=models["instruct"] if refines else None,
        encoder=encoder, rules=rules, settings=_first_settings(config, task),
    )  # fmt: skip
    run.begin(making)
    return making


def _stored_config(run: Run, stored: dict[str, Any]) -> BareConfig:
    """The configuration that a generation was made with, but what this command says otherwise."""
    fields = dataclasses.fields(BareConfig)
    defaults = {f.name: f.default if f.default is not dataclasses.MISSING else () for f in fields}
    known = {f.name for f in fields}
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items() if n in known}
    said = {n: v for n, v in run.config.settings(None).items() if v != defaults[n]}
    return BareConfig(**{**values, **said})


def _first_settings(config: BareConfig, task: Task) -> Settings:
    stage = "draft" if ARMS[config.arm][0] == "base" else "instruct"
    return Settings(
        temperature=_or(config.temperature, task.sampling(stage).temperature),
        refine_temperature=_or(config.refine_temperature, task.sampling("refine").temperature),
    )


def hold_out(task: Task, seeds: Seeds, *, share: float, seed: int) -> tuple[Seeds, Seeds, bool]:
    """(seeds that models are shown, real rows that they aren't, whether any are held out), by hash of the seed's id.

    Where what is left couldn't give every draft its shots, or fewer than ten would be held out, none is.
    """
    away = {s.seed_id for s in seeds.seeds if hash64("hold_out", seed, s.seed_id) < share * 2**64}
    shown = Seeds(tuple(s for s in seeds.seeds if s.seed_id not in away))
    enough = len(away) >= 10
    try:
        check_seeds(task, shown)
    except InputError:
        enough = False
    if not enough:
        check_seeds(task, seeds)
        return seeds, seeds, False
    return shown, Seeds(tuple(s for s in seeds.seeds if s.seed_id in away)), True


def _read_seeds(run: Run, task: Task) -> Seeds:
    config = run.config
    if not config.seeds:
        raise InputError("--seeds is missing: name JSON lines files or a Delta table with real examples")
    rows: list[dict[str, Any]] = []
    for path in config.seeds:
        rows += _table_rows(run, path) if _is_table(path) else _lines(run, path, "seeds file")
    if config.benchmark is not None:
        rows = [row for row in rows if row.get("benchmark") == config.benchmark]
        if not rows:
            raise InputError(
                f"--benchmark {config.benchmark}: no row of the seeds is of it; name another, or leave it out"
            )
    seeds = read_seeds(task, rows)
    if config.seeds_license is not None:
        given = tuple(dataclasses.replace(s, license=s.license or config.seeds_license) for s in seeds.seeds)
        seeds = dataclasses.replace(seeds, seeds=given)
    if seeds.rejected:
        run.warn(f"{len(seeds.rejected):,} of {len(rows):,} seed rows gave no seed; see the table rejected_seeds")
    return seeds


def _is_table(path: str) -> bool:
    """A folder with Delta's log, an address that isn't of JSON lines, or a catalog's name."""
    if is_local(path):
        return Path(path, "_delta_log").is_dir() or _is_catalog_table(path)
    return not path.lower().endswith(jsonlines.EXTENSIONS)


def _is_catalog_table(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){1,2}", name) is not None and not Path(name).exists() and (
        not name.lower().endswith(jsonlines.EXTENSIONS)
    )


def _table_rows(run: Run, path: str) -> list[dict[str, Any]]:
    frame = run.spark.read.table(path) if _is_catalog_table(path) else run.spark.read.format("delta").load(path)
    if run.config.benchmark is not None and "benchmark" in frame.columns:
        frame = frame.where(F.col("benchmark") == run.config.benchmark)
    rows = frame.limit(MOST_SEEDS + 1).collect()
    if len(rows) > MOST_SEEDS:
        raise InputError(f"--seeds {path} holds over {MOST_SEEDS:,} rows; seeds are a few good examples: take a part")
    return [row.asDict(recursive=True) for row in rows]


def _lines(run: Run, path: str, what: str) -> list[dict[str, Any]]:
    files = jsonlines.list_files(path, what=what)
    read = ((file, jsonlines.read_bytes(run.spark, file, what=what)) for file in files)
    return [row for file, data in read for _, row in jsonlines.rows(data, file, what=what)]


def _test_texts(run: Run) -> list[str]:
    """Everything that test rows say: every text in them, as one."""
    texts = []
    for path in run.config.tests:
        for row in _lines(run, path, "test file"):
            texts.append("\n".join(str(value) for value in row.values() if isinstance(value, str)))
    return texts


def _models(run: Run) -> tuple[Model, Model | None]:
    """The drafting and the refining model of the arm, described from their files."""
    config = run.config
    role, refines = ARMS[config.arm]
    given = {"base": config.base, "instruct": config.instruct}
    for name in {role, *(["instruct"] if refines else [])}:
        if given[name] is None:
            raise InputError(f"--{name} is missing: arm {config.arm} needs it; name one as transformers:PATH_OR_NAME")
    drafter = _model(run, role)
    return drafter, _model(run, "instruct") if refines else None


def _model(run: Run, role: str) -> Model:
    config = run.config
    base = role == "base"
    name = str(parse_generator(str(config.base if base else config.instruct)))
    settings = GeneratorSettings(
        role="base" if base else "instruct",
        precision=config.precision,
        batch_tokens=config.batch_tokens,
        insist=config.insist_base if base else config.insist_instruct,
        concurrency=config.concurrency,
        timeout=config.timeout,
        key_variable=config.key_variable,
    )
    return model_of(run, name, settings, config.base_license if base else config.instruct_license)


def judge_model(run: Run) -> Model:
    """The model that judges; any generator may, with a chat template or without."""
    config = run.config
    settings = GeneratorSettings(
        role="instruct", precision=config.precision, batch_tokens=config.batch_tokens, insist=True,
        concurrency=config.concurrency, timeout=config.timeout, key_variable=config.key_variable,
    )  # fmt: skip
    return model_of(run, str(parse_generator(str(config.judge))), settings)


def model_of(run: Run, name: str, settings: GeneratorSettings, license_: str | None = None) -> Model:
    """A generator with its revision, licence and price; InputError where the price table doesn't know it."""
    found = describe(name, settings)
    key = priced_as(parse_generator(name))
    price = load_prices(run.config.prices).price(key) if run.config.prices else None
    settings = dataclasses.replace(settings, precision=found.precision)
    return Model(name, found.revision, license_ or found.license, price, settings)


def check_gate(run: Run, seeds: Seeds, models: Sequence[Model]) -> None:
    """The licence gate, before any token is made, where --allow-licenses names some."""
    if not run.config.allow_licenses:
        return
    licenses = {f"model {model.name}": model.license for model in models}
    licenses |= {f"seeds of licence {s.license or 'unknown'}": s.license for s in seeds.seeds}
    check_licenses(licenses, allowed=run.config.allow_licenses)


def _write_making(run: Run, making: Making, text: str, seeds: Seeds, seeds_id: str) -> None:
    tables, spark, task = run.tables, run.spark, making.task
    if tables.read(GENERATIONS).where(F.col("generation_id") == making.generation_id).count():
        return
    away = {s.seed_id for s in making.real.seeds} if making.held_out else set()
    rows = [
        (seeds_id, s.seed_id, "real" if s.seed_id in away else "shot", task.name, s.fields, s.label,
         task.text_of(s.fields), s.source_id, s.license)
        for s in seeds.seeds
    ]  # fmt: skip
    where = {"seeds_id": seeds_id}
    tables.replace(SEEDS, SEEDS.frame(spark, rows), where=where, keys_are_unique=True)
    if seeds.rejected:
        failed = [(seeds_id, r.row, r.reason, r.detail) for r in seeds.rejected]
        tables.replace(
            REJECTED_SEEDS, REJECTED_SEEDS.frame(spark, failed), where=where, keys_are_unique=True
        )
    config, drafter, refiner = run.config, making.drafter, making.refiner
    base = drafter if ARMS[config.arm][0] == "base" else None
    instruct = refiner or (drafter if base is None else None)
    models = [value for m in (base, instruct) for value in ((m.name, m.revision, m.license) if m else (None,) * 3)]
    row = (
        making.generation_id, task.name, text, config.arm, seeds_id, *models, making.encoder.encoder_id,
        json.dumps(config.settings(None), default=list), run.run_id, datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    tables.replace(
        GENERATIONS,
        GENERATIONS.frame(spark, [row]),
        where={"generation_id": making.generation_id},
        keys_are_unique=True,
    )


# -- waves -------------------------------------------------------------------------------------------------------------


def pending(run: Run, round_: int, *, waiting_too: bool) -> DataFrame:
    """(item, attempt) of the round's items that no row was accepted for: the next attempt of each, the first first.

    At most a wave of them, and of the rows that the budget leaves. waiting_too: of items whose draft waits for its
    verdict as well, which there are none of in `bare run`.
    """
    config = run.config
    items = config.items_of(round_)
    most = config.wave_rows
    if config.budget_rows is not None:
        most = min(most, max(0, config.budget_rows - run.totals.drafts))
    all_items = run.spark.range(items.start, items.stop, 1, 1).select(F.col("id").alias("item"))
    tried = run.mine(DRAFTS).groupBy("item").agg((F.max("attempt") + 1).alias("next"))
    done = run.mine(VERDICTS).where("accepted").select("item").distinct()
    if not waiting_too:
        judged = run.mine(VERDICTS).select("draft_id")
        done = done.union(run.mine(DRAFTS).join(judged, "draft_id", "left_anti").select("item")).distinct()
    left = all_items.join(done, "item", "left_anti").join(tried, "item", "left")
    attempt = F.coalesce("next", F.lit(0)).alias("attempt")
    return left.select("item", attempt).where(F.col("attempt") < config.attempts).orderBy("attempt", "item").limit(most)


def draft(run: Run, round_: int, settings: Settings, *, waiting_too: bool = True) -> int | None:
    """Draft the next wave of the round; its number, or None where no item is left to draft."""
    making, config = run.making, run.config
    wave = max(run.waves(DRAFTS), default=-1) + 1
    rows = pending(run, round_, waiting_too=waiting_too)
    pool = _pool(run, round_)
    shared = share(run.spark, pool)
    stage = "draft" if ARMS[config.arm][0] == "base" else "instruct"
    sampling = _sampling(run, stage, settings.temperature)
    ask = draft_asking(
        making.task, shared, arm=config.arm, generation_id=making.generation_id, run_seed=config.seed,
        rotation=settings.rotation, sampling=sampling, share_shots=config.share_shots,
    )  # fmt: skip
    asked = "draft_id string, item bigint, attempt int, label string, shots array<string>"
    with run.terminal.stage("draft", unit="drafts") as progress, TaskWatch(run.spark, progress.tasks):
        # Drafts that share their shots go to one task: it reads them once.
        group = F.floor(F.col("item") / config.share_shots)
        drafted = _complete(run, rows, ask, asked, making.drafter, sampling, group)
        written = run.commit(DRAFTS, drafted.withColumn("round", F.lit(round_)), wave)
        count = _count_calls(run, written, drafts=True)
        progress.advance(count)
    release(shared)
    if not count:  # an empty commit is no wave: the next one takes its number
        run.waves(DRAFTS).discard(wave)
        return None
    return wave


def draft_asking(
    task: Task, pool: Any, *, arm: str, generation_id: str, run_seed: int, rotation: int, sampling: Sampling,
    share_shots: int = 1,
) -> Asking:  # fmt: skip
    """Prompts of drafts (BARE 3): shots by hash from the pool, the wanted label, raw for a base model, else a chat.

    share_shots: so many items, one after another, draw the same shots where they want the same label.
    """

    def ask(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Prompt | None]]:
        seeds: Seeds = pool.value
        items = [str(item) for item in frame["item"]]
        attempts = frame["attempt"].tolist()
        labels = task.wanted_labels(frame["item"].to_numpy())
        drawn = draw_shots(
            task, seeds, [str(item // share_shots) for item in frame["item"]], run_seed=run_seed, attempts=attempts,
            labels=labels, rotation=rotation,
        ).tolist()  # fmt: skip
        out = pd.DataFrame(
            {
                "draft_id": [content_id(generation_id, i, "draft", a) for i, a in zip(items, attempts, strict=True)],
                "item": frame["item"].to_numpy(),
                "attempt": frame["attempt"].to_numpy(),
                "label": labels,
                "shots": [[seeds.seeds[k].seed_id for k in row] for row in drawn],
            }
        )
        prompts: list[Prompt | None] = []
        for row, draft_id, item, attempt, label in zip(drawn, out["draft_id"], items, attempts, labels, strict=True):
            shots = [seeds.seeds[k].fields for k in row]
            seed = row_seed(run_seed, item, "draft", attempt)
            if ARMS[arm][0] == "base":
                prefix = len(task.draft_prefix(shots)) if share_shots > 1 else 0
                text = task.draft_prompt(shots, label)
                prompts.append(Prompt(draft_id, seed, prompt=text, sampling=sampling, prefix=prefix))
                continue
            persona = persona_of(f"{item}/{attempt}", run_seed=run_seed) if arm == "persona" else None
            messages = task.instruct_messages(shots, label=label, persona=persona)
            prompts.append(Prompt(draft_id, seed, messages=messages, sampling=sampling))
        return out, prompts

    return ask


def _pool(run: Run, round_: int) -> Seeds:
    """What a round's shots are drawn from: real seeds, always, and accepted rows of earlier rounds where asked for."""
    making, config = run.making, run.config
    if round_ == 0 or config.pool == "real":
        return making.shots
    rows = run.mine(VERDICTS).where("accepted").where(F.col("round") < round_)
    made: list[list[Seed]] = [[] for _ in range(round_)]
    for row in rows.select("row_id", "round", "fields", "label").collect():
        made[row["round"]].append(Seed(row["row_id"], dict(row["fields"]), row["label"]))
    by_id = {seed.seed_id: seed for seeds in (making.shots.seeds, *made) for seed in seeds}
    wanted = seed_pool(
        [s.seed_id for s in making.shots.seeds], [[s.seed_id for s in seeds] for seeds in made], mode=config.pool
    )
    return Seeds(tuple(by_id[seed_id] for seed_id in sorted(wanted)))


def refine(run: Run, wave: int, settings: Settings) -> None:
    """Refine a wave's drafts, one call each (BARE 3); a draft without text is a row that failed, without a call."""
    making, config = run.making, run.config
    if making.refiner is None:
        return
    columns = ("draft_id", "item", "attempt", "label", "shots", "text")
    drafts = run.mine(DRAFTS).where(F.col("wave") == wave).select(*columns)
    sampling = _sampling(run, "refine", settings.refine_temperature)
    shared = share(run.spark, _pool(run, round_of_wave(run, wave)) if config.refine_shots else None)
    ask = refine_asking(
        making.task, shared, generation_id=making.generation_id, run_seed=config.seed, sampling=sampling
    )
    count = run.drafted[wave]
    asked = "row_id string, draft_id string, label string, shots array<string>"
    with run.terminal.stage("refine", total=count, unit="rows") as progress, TaskWatch(run.spark, progress.tasks):
        progress.batch(count)
        refined = _complete(run, drafts, ask, asked, making.refiner, sampling, F.col("item"))
        _count_calls(run, run.commit(REFINED, refined, wave), drafts=False)
        progress.advance(count)
    release(shared)


def refine_asking(task: Task, pool: Any, *, generation_id: str, run_seed: int, sampling: Sampling) -> Asking:
    """Prompts of refinements: the draft as it came, with its label; the draft's shots again where a pool is given."""

    def ask(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Prompt | None]]:
        seeds: Seeds | None = pool.value
        fields = {} if seeds is None else {seed.seed_id: seed.fields for seed in seeds.seeds}
        items, attempts = [str(item) for item in frame["item"]], frame["attempt"].tolist()
        row_ids = [content_id(generation_id, i, "refine", a) for i, a in zip(items, attempts, strict=True)]
        shown = [list(shots) if seeds is not None else [] for shots in frame["shots"]]
        out = pd.DataFrame({"row_id": row_ids, "draft_id": frame["draft_id"], "label": frame["label"], "shots": shown})
        prompts: list[Prompt | None] = []
        for row_id, item, attempt, label, text, shots in zip(
            row_ids, items, attempts, frame["label"], frame["text"], shown, strict=True
        ):
            if not isinstance(text, str) or not text.strip():
                prompts.append(None)
                continue
            messages = task.refine_messages(
                text, [fields[s] for s in shots] or None, label=None if pd.isna(label) else label
            )
            seed = row_seed(run_seed, item, "refine", attempt)
            prompts.append(Prompt(row_id, seed, messages=messages, sampling=sampling))
        return out, prompts

    return ask


def judge_rows(run: Run, wave: int) -> None:
    """Verdicts on a wave's rows: each by itself, against seeds and tests, against accepted rows, among each other."""
    making = run.making
    rows = _rows_of_wave(run, wave)
    shared = share(run.spark, making.rules)
    with run.terminal.stage("verdicts", unit="rows") as progress, TaskWatch(run.spark, progress.tasks):
        checked = checking.check(rows, rules=shared)
        vectors = checking.embed_rows(checked, encoder=making.encoder, tasks=_tasks(run))
        vectors = run.commit(ROW_EMBEDDINGS, vectors, wave).select("row_id", "embedding")
        before = run.totals.accepted
        matches = None
        if before:
            mine = checked.where("accepted").select("row_id", "text").join(vectors, "row_id")
            earlier = accepted_rows(run).where(F.col("wave") != wave).select("row_id", "text", "embedding")
            buckets = -(-before // ACCEPTED_A_TASK)
            matches = checking.match(mine, earlier, config=making.rules.config, buckets=buckets)
        verdicts = checking.settle(checked, vectors, matches, rules=shared)
        written = run.commit(VERDICTS, verdicts, wave)
        counts = {row["reason"]: row["count"] for row in written.groupBy("reason").count().collect()}
        progress.advance(sum(counts.values()))
    release(shared)
    run.totals.add_verdicts(counts)
    kept = counts.pop(None, 0)
    aside = ", ".join(f"{n:,} {reason}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], str(c[0]))))
    run.terminal.line(
        f"wave {wave}: {kept + sum(counts.values()):,} rows, {kept:,} accepted "
        f"({run.totals.accepted:,} of {run.config.accepted:,}){'; rejected: ' + aside if aside else ''}"
    )


def accepted_rows(run: Run) -> DataFrame:
    """This generation's accepted rows with their embeddings."""
    vectors = run.mine(ROW_EMBEDDINGS).select("row_id", "embedding", "draft_embedding")
    return run.mine(VERDICTS).where("accepted").join(vectors, "row_id")


def _rows_of_wave(run: Run, wave: int) -> DataFrame:
    """What is judged: refinements beside their drafts, or the drafts themselves where the arm doesn't refine."""
    drafts = run.mine(DRAFTS).where(F.col("wave") == wave)
    about = drafts.select(
        "draft_id", "wave", "round", "item", "attempt", "label",
        F.col("text").alias("draft_text"), F.col("finish_reason").alias("draft_finish"),
        F.col("error").alias("draft_error"),
    )  # fmt: skip
    if run.making.refiner is None:
        return drafts.select(F.col("draft_id").alias("row_id"), "draft_id", "text", "finish_reason", "error").join(
            about, "draft_id"
        )
    rows = run.mine(REFINED).where(F.col("wave") == wave).select("row_id", "draft_id", "text", "finish_reason", "error")
    joined = rows.join(about, "draft_id")
    of_draft = F.concat(F.lit("the draft: "), F.coalesce("draft_error", F.lit("it is empty")))
    no_draft = F.col("draft_text").isNull() | (F.trim("draft_text") == "")
    refused = no_draft & (F.col("draft_finish") == "refusal")  # the base model's server refused: no failure
    return joined.withColumns(
        {
            "error": F.when(refused, F.lit(None)).when(no_draft, of_draft).otherwise(F.col("error")),
            "text": F.when(refused, F.lit("")).otherwise(F.col("text")),
            "finish_reason": F.when(refused, F.lit("refusal")).otherwise(F.col("finish_reason")),
        }
    )


def _complete(
    run: Run, rows: DataFrame, ask: Asking, asked: str, model: Model, sampling: Sampling, spread_by: Column
) -> DataFrame:
    """`complete` with what every row says of its call."""
    done = complete(
        rows.repartition(_tasks(run), F.xxhash64(spread_by)),
        ask=ask,
        asked=asked,
        model=model,
        local=is_local_session(run.spark),
        profile=embedding_profile(run.config.gpus_per_task),
    )
    constants = {
        "model": model.name,
        "revision": model.revision,
        "license": model.license,
        "sampling": json.dumps(dataclasses.asdict(sampling)),
    }
    return done.withColumns({name: F.lit(value).cast("string") for name, value in constants.items()})


def _tasks(run: Run) -> int:
    """Tasks of what calls a model."""
    return run.config.partitions or default_parallelism(run.spark)


def _sampling(run: Run, stage: str, temperature: float) -> Sampling:
    sampling = dataclasses.replace(run.making.task.sampling(stage), temperature=temperature)
    most = run.config.max_new_tokens
    return sampling if most is None else dataclasses.replace(sampling, max_tokens=most)


def round_of_wave(run: Run, wave: int) -> int:
    row = run.mine(DRAFTS).where(F.col("wave") == wave).select("round").first()
    assert row is not None
    return int(row["round"])


def round_settings(run: Run, round_: int) -> Settings:
    """What a round is made with: the first one by the task, each further one by the decision before it."""
    if round_ == 0:
        return run.making.settings
    row = run.mine(ROUNDS).where(F.col("round") == round_ - 1).select("next_settings").first()
    return run.making.settings if row is None else Settings(**json.loads(row["next_settings"]))


def _count_calls(run: Run, written: DataFrame, *, drafts: bool) -> int:
    """Add a wave's calls to the totals; how many there were."""
    row = written.agg(F.count(F.lit(1)).alias("rows"), F.max("wave").alias("wave"), *call_sums()).first()
    assert row is not None
    run.totals.add_calls(row["rows"], row.asDict(), drafts=drafts)
    if drafts and row["rows"]:
        run.drafted[row["wave"]] = row["rows"]
    return int(row["rows"])


def _or(given: float | None, default: float) -> float:
    return default if given is None else given

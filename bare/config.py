"""Every setting of a BARE run: frozen, checked at birth, with default and unit. The command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bare.collapse import CONTROLS, CollapseConfig
from bare.generators.spec import parse_generator
from bare.verdicts import VerdictConfig
from curation import command
from curation.command import option
from curation.embedding import EncoderConfig
from curation.errors import InputError

# arm -> (which model drafts, whether the instruct model refines)
ARMS = {
    "bare": ("base", True),
    "base": ("base", False),
    "instruct": ("instruct", False),
    "instruct_refined": ("instruct", True),
    "persona": ("instruct", False),
}
POOLS = ("real", "accumulate", "replace")
MAKING = "run estimate draft refine compare"
ASKING = f"{MAKING} judge"  # whoever calls a model
READING = "judge measure show report card export review"


@dataclass(frozen=True)
class BareConfig:
    """One run of BARE. A field's metadata says what it means, in which unit, and which commands read it."""

    tables: str = option("", "where the tables are: a folder, or catalog.schema", stages="every")
    generation: str | None = option(
        None, "id of the generation to look at; default: the latest one of the tables", stages=READING
    )
    task: str = option("", "a shipped task's name, or a YAML file of your own", stages=MAKING)
    seeds: tuple[str, ...] = option(
        [], "real examples: JSON lines files, a Delta table, or a BETR root's benchmark_examples", stages=MAKING,
        many=True,
    )
    seeds_license: str | None = option(
        None, "licence of the seeds whose rows state none", stages=MAKING
    )
    benchmark: str | None = option(
        None, "of a BETR benchmark_examples table: the benchmark whose examples are the seeds", stages=MAKING
    )
    hold_out: float = option(
        0.2, "share of the seeds that no model is shown: measures and judge compare with them", stages=MAKING
    )
    tests: tuple[str, ...] = option(
        [], "test sets (JSON lines): rows that share a run of words with them are rejected", stages=MAKING, many=True
    )
    base: str | None = option(
        None, "the base model, which drafts: transformers:..., vllm:..., openai:...@URL or scripted:FILE", stages=MAKING
    )
    instruct: str | None = option(None, "the instruct model, which refines", stages=MAKING)
    judge: str | None = option(
        None, "the model that judges indistinguishability; without one it isn't measured", stages="run judge compare"
    )
    arm: str = option("bare", f"how rows are made: {', '.join(ARMS)}", stages="run estimate draft refine")
    accepted: int = option(100, "rows to accept", stages=MAKING)
    attempts: int = option(8, "drafts for one item, before it is given up", stages=MAKING)
    budget_rows: int | None = option(None, "stop after so many drafts", stages=MAKING)
    budget_tokens: int | None = option(None, "stop after so many tokens, in and out, of all calls", stages=MAKING)
    budget_cost: float | None = option(None, "stop after so much money, in the price table's currency", stages=MAKING)
    budget_seconds: float | None = option(None, "stop after so many seconds of this run", stages=MAKING)
    prices: str | None = option(
        None, "price table (YAML): models with input_per_million, output_per_million, per_hour", stages=ASKING
    )
    allow_licenses: tuple[str, ...] = option(
        [], "licences that models and seeds may have ('unknown' among them); none given: nothing is refused",
        stages=MAKING, many=True,
    )
    base_license: str | None = option(None, "licence of the base model, where its files don't say", stages=MAKING)
    instruct_license: str | None = option(None, "licence of the instruct model", stages=MAKING)
    wave_rows: int = option(
        512, "drafts in one wave, which is one commit a stage: what a killed run loses at most", stages=MAKING
    )
    rounds: int = option(1, "rounds that the accepted rows are made in; each is measured", stages=MAKING)
    control: str = option("watch", f"what a breach between rounds leads to: {', '.join(CONTROLS)}", stages=MAKING)
    pool: str = option(
        "real",
        "what later rounds draw shots from: real (seeds alone), accumulate (and all rounds' accepted rows) or "
        "replace (and the last round's)",
        stages=MAKING,
    )
    share_shots: int = option(
        1, "drafts in a row that are shown the same shots: their common beginning is read once (transformers)",
        stages=MAKING,
    )
    temperature: float | None = option(None, "of drafting; default: the task's", stages=MAKING)
    refine_temperature: float | None = option(None, "of refining; default: the task's", stages=MAKING)
    max_new_tokens: int | None = option(None, "longest completion, in tokens; default: the task's", stages=MAKING)
    refine_shots: bool = option(False, "show the draft's shots to the refining model too", stages=MAKING)
    encoder: str = option(
        "hashing:256",
        "sentence-transformers model for copies and measures: folder or name (hashing:256: words alone, no model)",
        stages=MAKING,
    )
    encoder_revision: str | None = option(None, "revision of a named encoder", stages=MAKING)
    ngram: int = option(5, "words in a run, for copies", stages=MAKING)
    overlap: float = option(0.6, "share of runs in common that makes a copy", stages=MAKING)
    cosine: float = option(0.95, "cosine of embeddings that makes a copy", stages=MAKING)
    precision: str = option("auto", "the models' arithmetic: auto, float32, bfloat16 or float16", stages=ASKING)
    batch_tokens: int | None = option(None, "tokens that a model reads at once; default: by device", stages=ASKING)
    gpus_per_task: float = option(0.0, "GPUs that each generating task asks for", stages=ASKING)
    partitions: int | None = option(
        None, "tasks that a wave is cut into; default: as many as the session has cores", stages=ASKING
    )
    concurrency: int = option(8, "requests under way at once, a task (openai)", stages=ASKING)
    timeout: float = option(120.0, "seconds for one request (openai)", stages=ASKING)
    key_variable: str = option("OPENAI_API_KEY", "environment variable that holds the key (openai)", stages=ASKING)
    insist_base: bool = option(False, "draft with a model that has a chat template", stages=MAKING)
    insist_instruct: bool = option(False, "refine with a model that has no chat template", stages=MAKING)
    judged: int = option(200, "rows that the judge is asked about", stages="run judge compare")
    mlflow: str | None = option(
        None,
        "log the run in this experiment of MLflow: settings, figures, page, card (where: MLFLOW_TRACKING_URI)",
        stages="run",
    )
    arms: tuple[str, ...] = option([], "arms to compare; default: all, and real rows", stages="compare", many=True)
    trial: int = option(32, "drafts of the trial wave", stages="estimate")
    seed: int = option(0, "seed of every hash that stands for chance", stages=MAKING)

    def __post_init__(self) -> None:
        if not self.tables:
            raise InputError("--tables is missing: name a folder or catalog.schema to keep the tables in")
        for name, choices in (("arm", tuple(ARMS)), ("control", CONTROLS), ("pool", POOLS)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        for name in ("accepted", "attempts", "wave_rows", "rounds", "trial", "judged", "concurrency", "share_shots"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)!r}")
        for name in ("budget_rows", "budget_tokens", "budget_cost", "budget_seconds", "partitions", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"--{name.replace('_', '-')} must be above 0; got {value!r}")
        if self.rounds > self.accepted:
            raise InputError(f"--rounds {self.rounds} need a row each at least, but --accepted is {self.accepted}")
        if not 0 <= self.hold_out < 1:
            raise InputError(f"--hold-out must be a share in [0, 1); got {self.hold_out!r}")
        if self.budget_cost is not None and self.prices is None:
            raise InputError("--budget-cost needs prices: name a price table with --prices FILE")
        unknown = sorted(set(self.arms) - {*ARMS, "real"})
        if unknown:
            raise InputError(f"--arms: {unknown[0]!r} is no arm; there are {', '.join(ARMS)}, real")
        for given in (self.base, self.instruct, self.judge):
            if given is not None:
                parse_generator(given)
        _ = self.encoding, self.verdicts, self.collapse

    @property
    def encoding(self) -> EncoderConfig:
        return EncoderConfig(model=self.encoder, revision=self.encoder_revision)

    @property
    def verdicts(self) -> VerdictConfig:
        return VerdictConfig(ngram=self.ngram, overlap=self.overlap, cosine=self.cosine)

    @property
    def collapse(self) -> CollapseConfig:
        return CollapseConfig(control=self.control, rounds=self.rounds)

    def round_of(self, item: int) -> int:
        """Items are shared out evenly: round r makes the items from r * accepted / rounds on."""
        return item * self.rounds // self.accepted

    def items_of(self, round_: int) -> range:
        """The items of a round: those for which `round_of` says it."""
        return range(-(-round_ * self.accepted // self.rounds), -(-(round_ + 1) * self.accepted // self.rounds))

    def settings(self, stage: str | None) -> dict[str, Any]:
        """The settings that a command reads."""
        return {f.name: getattr(self, f.name) for f in command.options(BareConfig, stage)}

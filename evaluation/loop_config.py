"""Every setting of `evaluate loop`: frozen, checked at birth. The command line is made from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import yaml

from bare.config import BareConfig
from betr.coverage import check_count
from curation.command import option
from curation.embedding import EncoderConfig
from curation.errors import InputError
from evaluation.compare import LEVEL
from evaluation.config import EvaluationConfig
from evaluation.held_out import HeldOutConfig
from evaluation.proxy import ProxyConfig
from evaluation.tokenizer import VOCABULARY
from evaluation.training import TrainingConfig

# What the loop says to BARE itself, or by an option of its own: --bare names none of them.
OURS = frozenset((
    "tables", "generation", "task", "seeds", "benchmark", "hold_out", "tests", "base", "instruct", "arm", "accepted",
    "budget_rows", "budget_tokens", "budget_cost", "budget_seconds", "prices", "rounds", "encoder", "encoder_revision",
    "gpus_per_task", "seed", "judge", "mlflow", "arms",
))  # fmt: skip
# What doesn't hang on these is made once, whatever they say: where things lie, how many rounds, what comes after them.
ASIDE = frozenset((
    "tables", "working", "page", "rounds", "held_out", "questions", "sizes", "models", "train_tokens", "vocabulary",
    "level", "closed_at", "gpus_per_task",
))  # fmt: skip


@dataclass(frozen=True)
class LoopConfig:
    """What the loop is told: which gaps, how BARE fills them, how much of it the selection takes, who judges it."""

    tables: str = option("", "where the tables are, after `betr run`: a folder, or catalog.schema", stages="all")
    rounds: int = option(2, "rounds: each goes out from what the one before left uncovered", stages="loop")
    count: int = option(100, "gaps of a round: the task examples with the least near them", stages="loop")
    benchmark: str | None = option(None, "gaps of this benchmark alone; default: of all", stages="loop")
    hold_back: float = option(
        0.25,
        "share of the examples that no model is shown, whether gaps or not: they tell what rows bring beyond the gaps "
        "they were made from",
        stages="loop",
    )
    task: str = option(
        "", "BARE's task, a shipped one's name or a YAML file: it must read the gaps' rows", stages="loop"
    )
    base: str | None = option(
        None, "the base model, which drafts: transformers:..., vllm:..., openai:...@URL or scripted:FILE", stages="loop"
    )
    instruct: str | None = option(None, "the instruct model, which refines", stages="loop")
    accepted: int = option(100, "rows that BARE accepts in a round", stages="loop")
    budget_rows: int | None = option(None, "a round's drafts at most", stages="loop")
    budget_tokens: int | None = option(None, "a round's tokens at most, in and out, of all calls", stages="loop")
    budget_cost: float | None = option(None, "a round's money at most, in the price table's currency", stages="loop")
    budget_seconds: float | None = option(
        None, "a round's seconds of making rows at most; how many are made then hangs on the machine", stages="loop"
    )
    prices: str | None = option(None, "price table (YAML) of the models, as for `bare run`", stages="loop")
    tests: tuple[str, ...] = option(
        [], "test sets (JSON lines): rows that share a run of words with them, or with --held-out, are rejected",
        stages="loop", many=True,
    )  # fmt: skip
    bare: tuple[str, ...] = option(
        [], "any other option of `bare run` as NAME=VALUE: temperature=0.9 refine_shots=true", stages="loop", many=True
    )
    most_synthetic: float = option(
        0.1, "the synthetic documents' share of all selected tokens at most; they come on top of the real ones",
        stages="loop",
    )  # fmt: skip
    synthetic: str = option("synthetic", "source of the documents that are made", stages="loop")
    closed_at: float = option(
        0.5,
        "a gap is closed at the similarity that this share of all examples didn't reach before the loop: 0.5 is the "
        "median",
        stages="loop",
    )
    seed: int = option(0, "seed of every hash that stands for chance", stages="loop")
    gpus_per_task: float = option(0.0, "GPUs that each generating or embedding task asks for", stages="loop")
    held_out: tuple[str, ...] = option(
        [],
        "held-out splits that small models are asked, trained with the synthetic documents and without: name=path; "
        "default: no model is trained",
        stages="loop",
        many=True,
    )
    questions: int | None = option(HeldOutConfig.per_benchmark, "held-out examples of each benchmark", stages="loop")
    sizes: tuple[str, ...] = option(["0.3m"], "sizes of the models that judge", stages="loop", many=True)
    models: int = option(ProxyConfig.seeds, "models of each size, with and without: seeds 0, 1, ...", stages="loop")
    train_tokens: int = option(TrainingConfig.tokens, "tokens that each of them is trained on", stages="loop")
    vocabulary: int = option(VOCABULARY, "tokens of the tokenizer that they share", stages="loop")
    level: float = option(LEVEL, "level of the intervals", stages="loop")
    working: str | None = option(
        None, "folder for BARE's tables and the synthetic documents', which all machines see; default: `loop` under "
        "the tables root", stages="loop",
    )  # fmt: skip
    page: str | None = option(None, "HTML page, or none; default: pages/ under a local tables root", stages="loop")

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"--rounds must be at least 1; got {self.rounds!r}")
        check_count(self.count)
        if not 0 <= self.most_synthetic < 1:
            raise InputError(
                f"--most-synthetic must be a share of the selected tokens in [0, 1); got {self.most_synthetic!r}"
            )
        if not 0 <= self.hold_back < 1:
            raise InputError(f"--hold-back must be a share of the examples in [0, 1); got {self.hold_back!r}")
        if not 0 <= self.closed_at <= 1:
            raise InputError(f"--closed-at must be a share of the examples in [0, 1]; got {self.closed_at!r}")
        if not self.synthetic.strip():
            raise InputError(f"--synthetic names a source; got {self.synthetic!r}")
        for name in ("task", "base", "instruct"):
            if not getattr(self, name):
                raise InputError(
                    f"--{name} is missing: rows for the gaps are made as `bare run` makes them, which needs it"
                )
        _ = self.making(
            0, tables="its own", seeds=(), tests=(), encoder=EncoderConfig("hashing:64")
        )  # refused at birth
        _ = self.judging

    @property
    def told(self) -> dict[str, Any]:
        """What --bare says, by BARE's name of it."""
        known = {f.name: f for f in dataclasses.fields(BareConfig)}
        found: dict[str, Any] = {}
        for each in self.bare:
            name, equals, value = each.partition("=")
            name = name.strip().removeprefix("--").replace("-", "_")
            if not equals or name not in known or name in OURS:
                names = ", ".join(sorted(set(known) - OURS))
                raise InputError(f"--bare wants NAME=VALUE of {names}; got {each!r}")
            try:
                read = yaml.safe_load(value)
            except yaml.YAMLError:
                raise InputError(f"--bare {each}: the value is no YAML; put it in quotes") from None
            if known[name].metadata["many"]:
                read = tuple(map(str, read)) if isinstance(read, list) else (str(read),)
            found[name] = read
        return found

    def making(
        self, round_: int, *, tables: str, seeds: tuple[str, ...], tests: tuple[str, ...], encoder: EncoderConfig
    ) -> BareConfig:
        """BARE's settings in a round. encoder: that of the examples, so that copies are told by the same similarity."""
        try:
            return BareConfig(
                tables=tables, task=self.task, seeds=seeds, hold_out=0.0, tests=tests,
                base=self.base, instruct=self.instruct, accepted=self.accepted, budget_rows=self.budget_rows,
                budget_tokens=self.budget_tokens, budget_cost=self.budget_cost, budget_seconds=self.budget_seconds,
                prices=self.prices, encoder=encoder.model, encoder_revision=encoder.revision,
                gpus_per_task=self.gpus_per_task, seed=self.seed + round_, **self.told,
            )  # fmt: skip
        except TypeError as error:  # a value of --bare that isn't of its option's kind
            raise InputError(f"--bare: a value is not of its option's kind ({error}); see `bare run --help`") from None

    @property
    def judging(self) -> EvaluationConfig:
        """The comparison of two selections: the real one, and that with the synthetic documents."""
        return EvaluationConfig(
            tables=self.tables, held_out=self.held_out, questions=self.questions, sizes=self.sizes, seeds=self.models,
            train_tokens=self.train_tokens, vocabulary=self.vocabulary, level=self.level, seed=self.seed,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What the rounds' rows hang on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ASIDE}

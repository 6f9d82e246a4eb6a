"""Every setting of `evaluate`: frozen, checked at birth. The command line is made from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from curation.command import option
from curation.errors import InputError
from evaluation.arm_config import ArmsConfig
from evaluation.compare import LEVEL
from evaluation.held_out import HeldOutConfig
from evaluation.measuring import FinetuningConfig
from evaluation.proxy import ProxyConfig
from evaluation.tokenizer import VOCABULARY
from evaluation.training import TrainingConfig


@dataclass(frozen=True)
class EvaluationConfig(ArmsConfig):
    """One comparison: arms at equal tokens, proxy models on each, and what they are measured on."""

    tables: str = option("", "where the tables are: a folder, or catalog.schema, after `betr run`", stages="all")
    held_out: tuple[str, ...] = option(
        [],
        "held-out splits of the benchmarks as JSON lines, never the targets' training splits: name=path, or a path "
        "whose stem is the name",
        stages="train",
        many=True,
    )
    questions: int | None = option(
        HeldOutConfig.per_benchmark, "held-out examples of each benchmark, by hash; null: all", stages="train"
    )
    on_contamination: str = option(
        HeldOutConfig.on_contamination,
        "held-out examples that stand in the corpus: remove (counted) or refuse",
        stages="train",
    )
    sizes: tuple[str, ...] = option(
        list(ProxyConfig.sizes), "sizes of model: 0.1m to 1b, or HIDDENxLAYERSxHEADS", stages="train", many=True
    )
    seeds: int = option(ProxyConfig.seeds, "models of each arm and size: seeds 0, 1, ...", stages="train")
    train_tokens: int | tuple[int, ...] = option(
        [TrainingConfig.tokens],
        "tokens that each model is trained on, as the proxies' own tokenizer counts; several: models of each, compared "
        "at the largest, for laws",
        stages="train",
        many=True,
    )
    sequence: int = option(TrainingConfig.sequence, "tokens of a context", stages="train")
    batch: int = option(TrainingConfig.batch, "sequences of a step", stages="train")
    learning_rate: float | None = option(None, "at its highest; default: 0.5 / hidden", stages="train")
    most_epochs: float | None = option(
        None, "an arm whose tokens would be repeated oftener is refused; default: none is", stages="train"
    )
    finetune: tuple[str, ...] = option(
        [],
        "small task set that every model is fine-tuned on in the end, and measured again: files as for --held-out",
        stages="train",
        many=True,
    )
    finetune_examples: int = option(100, "examples of each benchmark of --finetune, by hash", stages="train")
    vocabulary: int = option(VOCABULARY, "tokens of the tokenizer that all models share", stages="train")
    gpus_per_task: float = option(0.0, "GPUs that each training task asks for", stages="train")
    working: str | None = option(
        None,
        "folder for token files, checkpoints and weights, which all machines see; default: under the tables root",
        stages="train",
    )
    level: float = option(LEVEL, "level of the intervals", stages="compare")
    ours: str | None = option(None, "the arm whose defeats are listed; default: all but random", stages="compare")
    page: str | None = option(
        None, "HTML page of the comparison, or none; default: pages/ under a local tables root", stages="compare"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vocabulary", "finetune_examples"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)!r}")
        if not 0.5 <= self.level < 1:
            raise InputError(f"--level must be at least 0.5 and below 1; got {self.level!r}")
        _ = self.each_proxies, self.holding_out  # what they refuse is refused at birth

    @property
    def token_counts(self) -> tuple[int, ...]:
        """Tokens that models are trained on, ascending; comparisons are at the last."""
        counts = (self.train_tokens,) if isinstance(self.train_tokens, int) else self.train_tokens
        if not counts or len(set(counts)) < len(counts):
            raise InputError(f"--train-tokens needs numbers, each once; got {' '.join(map(str, counts)) or 'none'}")
        return tuple(sorted(counts))

    @property
    def proxies(self) -> ProxyConfig:
        """The runs on the most tokens: those that are compared."""
        return self.each_proxies[0]

    @property
    def each_proxies(self) -> tuple[ProxyConfig, ...]:
        """The runs of each number of tokens, the most tokens first: they take longest."""
        common: dict[str, Any] = {
            "sequence": self.sequence, "batch": self.batch, "learning_rate": self.learning_rate,
            "most_epochs": self.most_epochs,
        }  # fmt: skip
        return tuple(
            ProxyConfig(
                sizes=self.sizes, seeds=self.seeds, training=TrainingConfig(tokens=tokens, **common),
                gpus_per_task=self.gpus_per_task, finetuning=FinetuningConfig() if self.finetune else None,
            )
            for tokens in reversed(self.token_counts)
        )  # fmt: skip

    @property
    def holding_out(self) -> HeldOutConfig:
        return HeldOutConfig(per_benchmark=self.questions, seed=self.seed, on_contamination=self.on_contamination)

    def settings(self) -> dict[str, Any]:
        """What a comparison is made from, as JSON keeps it; without where its tables and files lie."""
        aside = ("tables", "working", "page")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in aside}


@dataclass(frozen=True)
class RoiConfig:
    """What `evaluate roi` is told: prices, the machines that stages ran on, how often a year, the value of a point."""

    tables: str = option("", "where the tables are, after `evaluate compare`", stages="all")
    arm: str = option("betr", "the arm whose gain it is", stages="roi")
    prices: str | None = option(
        None,
        "YAML with `currency`, `machines` (core_hour, gpu_hour) and, for --bare, `models`, as for `betr estimate` and "
        "`bare estimate`",
        stages="roi",
    )
    bare: str | None = option(
        None, "tables of `bare run`, whose drafts, refinements and judgements are part of the cost", stages="roi"
    )
    cores: int | None = option(
        None, "cores that the stages held; default: this session's. Small models: as their runs recorded", stages="roi"
    )
    gpus: int = option(0, "GPUs that embedding held. Small models: as their runs recorded", stages="roi")
    times_a_year: float = option(0.0, "how often a year it is selected again", stages="roi")
    repeated: tuple[str, ...] = option(
        ["import=1", "score=1", "select=1", "cover=1"],
        "what selecting again takes: STAGE=SHARE of what the stage cost (new documents alone: less than 1)",
        stages="roi",
        many=True,
    )
    value_per_point: float | None = option(
        None, "what a percentage point of right answers is worth in a year, in the currency of the prices", stages="roi"
    )
    training_cost: float | None = option(
        None, "what the planned training of the large model costs, in the same currency", stages="roi"
    )
    level: float = option(LEVEL, "level of the intervals", stages="roi")
    page: str | None = option(None, "HTML page, or none; default: pages/ under a local tables root", stages="roi")

    def __post_init__(self) -> None:
        if self.prices is None:
            raise InputError(
                "a return needs prices: name a YAML file with --prices (`currency`, `machines`: `core_hour`)"
            )
        if (self.cores is not None and self.cores < 1) or self.gpus < 0:
            raise InputError(f"--cores must be at least 1 and --gpus 0 or more; got {self.cores} and {self.gpus}")
        if not 0.5 <= self.level < 1:
            raise InputError(f"--level must be at least 0.5 and below 1; got {self.level!r}")
        _ = self.shares

    @property
    def shares(self) -> dict[str, float]:
        """stage -> the share of its cost that selecting again takes."""
        shares = {}
        for each in self.repeated:
            stage, _, share = each.partition("=")
            try:
                shares[stage.strip()] = float(share)
            except ValueError:
                raise InputError(f"--repeated wants STAGE=SHARE; got {each!r}") from None
        return shares

"""Every setting of `evaluate downstream`: frozen, checked at birth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from curation.command import option
from curation.errors import InputError
from evaluation.compare import LEVEL
from evaluation.downstream import OURS
from evaluation.models import TuningConfig
from evaluation.tokenizer import VOCABULARY


@dataclass(frozen=True)
class DownstreamConfig:
    """One model, fine-tuned on each arm of a `bare compare` and on few real rows with and without made ones."""

    tables: str = option("", "where the tables are, after `bare compare`: a folder, or catalog.schema", stages="every")
    comparison: str | None = option(None, "id of the comparison; default: the latest one of the tables", stages="every")
    arms: tuple[str, ...] = option(
        [], "arms to train on, `real` among them; default: all of the comparison, and real rows", stages="every",
        many=True,
    )  # fmt: skip
    test: tuple[str, ...] = option(
        [],
        "real test rows (JSON lines in the task's fields), never seeds; default: the seeds that no model was shown",
        stages="every",
        many=True,
    )
    tests: int | None = option(None, "test rows at most, by hash; default: all", stages="every")
    model: str = option(
        "", "a causal language model (folder or name), or a proxy's size from scratch: 0.1m to 1b", stages="every"
    )
    method: str = option(TuningConfig.method, "lora (adapters) or full (all weights)", stages="every")
    rank: int = option(TuningConfig.rank, "rank of LoRA's adapters", stages="every")
    alpha: int = option(TuningConfig.alpha, "LoRA's alpha: adapters count alpha / rank", stages="every")
    learning_rate: float | None = option(
        None, "at first; falls to 0; default: 1e-3 (lora), 5e-5 (full), 0.5 / hidden (from scratch)", stages="every"
    )
    epochs: int = option(
        TuningConfig.epochs, "times through the arm with the most rows; all arms make as many steps", stages="every"
    )
    batch: int = option(TuningConfig.batch, "rows of a step", stages="every")
    sequence: int = option(TuningConfig.sequence, "tokens of a context", stages="every")
    precision: str = option(
        TuningConfig.precision, "what matrices are multiplied in: auto, float32 or bfloat16", stages="every"
    )
    seeds: int = option(3, "models of each arm: seeds 0, 1, ...", stages="every")
    answer: tuple[str, ...] = option(
        [], "fields to answer; default: the label, or the last field", stages="every", many=True
    )
    prompt: tuple[str, ...] = option([], "fields to answer from; default: all others", stages="every", many=True)
    imbalance: str | None = option(
        None,
        "real rows of each label before it is topped up: LABEL=ROWS,...; default: the real rows as they are",
        stages="every",
    )
    top_up: tuple[str, ...] = option([OURS], "arms whose rows top up rare labels", stages="every", many=True)
    equal_cost: bool = option(False, "the made arms at equal cost too", stages="every")
    vocabulary: int = option(VOCABULARY, "tokens of a proxy's tokenizer, made from all rows", stages="every")
    gpus_per_task: float = option(0.0, "GPUs that each training task asks for", stages="every")
    working: str | None = option(
        None, "folder for what runs leave, which all machines see; default: under the tables root", stages="every"
    )
    level: float = option(LEVEL, "level of the intervals", stages="every")
    page: str | None = option(None, "HTML page, or none; default: pages/ under a local tables root", stages="every")
    seed: int = option(0, "seed of the hash that chooses test rows", stages="every")

    def __post_init__(self) -> None:
        if not self.tables:
            raise InputError("--tables is missing: name the folder or catalog.schema of a `bare compare`")
        if not self.model:
            raise InputError("--model is missing: name a model's folder or name, or a proxy's size such as 0.3m")
        for name in ("seeds", "vocabulary", "tests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1; got {value!r}")
        if not 0.5 <= self.level < 1:
            raise InputError(f"--level must be at least 0.5 and below 1; got {self.level!r}")
        _ = self.tuning

    @property
    def tuning(self) -> TuningConfig:
        return TuningConfig(
            method=self.method, rank=self.rank, alpha=self.alpha, learning_rate=self.learning_rate, epochs=self.epochs,
            batch=self.batch, sequence=self.sequence, precision=self.precision,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What a comparison is made from, as JSON keeps it; without where its tables and files lie."""
        aside = ("tables", "working", "page")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in aside}

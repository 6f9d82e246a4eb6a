"""What arms of a comparison there are, how they are written, and the settings that all of them share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from curation.command import option
from curation.errors import InputError

# kind -> what stands behind its colon; "" where nothing does.
KINDS = {
    "random": "",
    "betr": "HEAD",
    "direct": "",
    "quality": "",
    "dsir": "",
    "soft": "TEMPERATURE",
    "bare": "SHARE",
    "keep": "SHARE",
}
NUMBERS = ("soft", "bare", "keep")  # what stands behind their colon
REPEAT, REFUSE = "repeat", "refuse"
FIELDS = ("source=", "metadata.")  # how documents of the corpus are named as positives, and not files


@dataclass(frozen=True)
class ArmConfig:
    """One way to choose the tokens. argument: betr: the head (benchmark) whose score is cut, none for all targets;
    soft: the temperature; bare: the synthetic documents' share of the tokens; keep: the share of the pool's tokens, in
    place of the number of tokens that the other arms get.
    """

    kind: str
    argument: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"there is no arm {self.kind!r}; there are {', '.join(map(_written, KINDS))}")
        if self.argument and not KINDS[self.kind]:
            raise InputError(f"the arm {self.kind} takes nothing behind a colon; got {self.argument!r}")
        if self.kind in NUMBERS:
            _ = self.number

    @property
    def name(self) -> str:
        """As it is written."""
        return f"{self.kind}:{self.argument}" if self.argument else self.kind

    @property
    def head(self) -> str | None:
        return self.argument or None if self.kind == "betr" else None

    @property
    def number(self) -> float:
        """The temperature of soft, the share of bare and keep."""
        try:
            value = float(self.argument or ("1" if self.kind == "soft" else "nan"))
        except ValueError:
            value = math.nan
        if self.kind == "soft" and not (math.isfinite(value) and value > 0):
            raise InputError(f"an arm soft:TEMPERATURE needs a number above 0; got {self.argument!r}")
        if self.kind == "bare" and not 0 < value < 1:
            raise InputError(f"an arm bare:SHARE needs a share of the tokens in (0, 1); got {self.argument!r}")
        if self.kind == "keep" and not 0 < value <= 1:
            raise InputError(f"an arm keep:SHARE needs a share of the pool's tokens in (0, 1]; got {self.argument!r}")
        return value


def _written(kind: str) -> str:
    optional = f"{kind} or {kind}:{KINDS[kind]}"
    return f"{kind}:{KINDS[kind]}" if kind in ("bare", "keep") else optional if KINDS[kind] else kind


def parse_arm(text: str) -> ArmConfig:
    """`random`, `betr`, `betr:arc_easy`, `direct`, `quality`, `dsir`, `soft:0.5`, `bare:0.1` or `keep:0.3`; numbers as
    they are shortest: `soft:0.50` is `soft:0.5`.
    """
    kind, colon, argument = text.strip().partition(":")
    if colon and not argument.strip():
        raise InputError(f"the arm {text!r} has a colon with nothing behind it; leave it out, or name what it takes")
    arm = ArmConfig(kind.strip(), argument.strip())
    return ArmConfig(arm.kind, f"{arm.number:g}") if arm.kind in NUMBERS else arm


@dataclass(frozen=True)
class ArmsConfig:
    """The arms of a comparison. A field's metadata says what it means; all are read by the stage `arms`."""

    arms: tuple[str, ...] = option(
        ["random", "direct", "dsir", "betr"],
        "ways to choose the tokens: random, betr (the main line), betr:HEAD (one benchmark's head), direct, quality, "
        "dsir, soft:TEMPERATURE, bare:SHARE, keep:SHARE (the main line at this share of all tokens: for the best "
        "filter rate)",
        stages="arms",
        many=True,
    )
    tokens: int | None = option(
        None, "tokens of every arm but keep:SHARE, as the scores count them; default: as many as the latest selection "
        "kept",
        stages="arms",
    )  # fmt: skip
    seed: int = option(0, "seed of every hash that stands for chance in an arm", stages="arms")
    quality_positives: tuple[str, ...] = option(
        [],
        "what the arm quality takes for good text, never the targets: files or folders with documents, "
        "source=NAME or metadata.KEY=VALUE of the corpus",
        stages="arms",
        many=True,
    )
    most_positives: int = option(200_000, "positives that the arm quality trains on at most (DCLM's)", stages="arms")
    buckets: int = option(10_000, "DSIR: buckets that words and word pairs are hashed into", stages="arms")
    synthetic: str = option("synthetic", "source of the documents that only the arms bare:SHARE use", stages="arms")
    tolerance: float = option(
        0.01, "how far an arm's tokens may fall short of those asked for: a cut ends where a document does",
        stages="arms",
    )  # fmt: skip
    on_short: str = option(
        REPEAT, "an arm that falls short further: repeat (said with its epochs) or refuse", stages="arms"
    )

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.parsed]
        if not names:
            raise InputError("a comparison needs arms; name at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"the arm {twice[0]} is named twice; leave one out")
        if self.tokens is not None and self.tokens < 1:
            raise InputError(f"an arm's tokens must be a whole number of at least 1; got {self.tokens!r}")
        if "quality" in names and not self.quality_positives:
            raise InputError(
                "the arm quality needs text to call good: name files, source=NAME or metadata.KEY=VALUE with "
                "--quality-positives"
            )
        for name in ("most_positives", "buckets"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)!r}")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"--tolerance must be a share in [0, 1); got {self.tolerance!r}")
        if self.on_short not in (REPEAT, REFUSE):
            raise InputError(f"--on-short must be {REPEAT} or {REFUSE}; got {self.on_short!r}")
        if not self.synthetic.strip():
            raise InputError(f"--synthetic names a source; got {self.synthetic!r}")
        for each in self.quality_positives:
            if each.startswith(FIELDS):
                positive_field(each)

    @property
    def parsed(self) -> tuple[ArmConfig, ...]:
        return tuple(map(parse_arm, self.arms))


def positive_field(text: str) -> tuple[str, str]:
    """(`source` or `metadata.KEY`, value) of documents that are positives."""
    field, _, value = text.partition("=")
    if not value.strip() or field == "metadata.":
        raise InputError(f"--quality-positives reads source=NAME, metadata.KEY=VALUE or a path; got {text!r}")
    return field, value


def repeated(asked: int, there: int) -> float:
    """How often an arm of so many tokens is read where so many are asked for: epochs, at least 1."""
    return max(1.0, float(Fraction(asked, there)))


def shortfall(arm: str, asked: int, there: int, tolerance: float) -> str | None:
    """What is to be said of an arm that holds fewer tokens than asked for; None where it is near enough."""
    if there >= asked - Fraction(repr(tolerance)) * asked:
        return None
    return (
        f"the arm {arm} holds {there:,} of the {asked:,} tokens asked for: equal tokens repeat it "
        f"{repeated(asked, there):.3g} times"
    )

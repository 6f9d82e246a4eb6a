"""A command line made from a frozen dataclass: flags, YAML and help from one definition, and manners that all share.

stdout belongs to `--json`; exit 0, 1 for bad input with one sentence, 2 for usage, 3 where what was written has moved
further than allowed, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, field
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from pyspark.sql import SparkSession

from curation.errors import ChecksFailedError, InputError, MissingExtraError, explain
from curation.progress import Terminal
from curation.session import cancel_jobs, get_session, interrupts_raise

Config = TypeVar("Config")
Number = TypeVar("Number", bound=float)
SHELLS = ("bash", "zsh")


# -- a configuration ---------------------------------------------------------------------------------------------------


def option(default: Any, help_: str, *, stages: str, many: bool = False) -> Any:
    """A field of a configuration: default, meaning with its unit, the stages that read it (`every`: all)."""
    metadata = {"help": help_, "stages": frozenset(stages.split()), "many": many}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def options(config: type, stage: str | None = None) -> list[dataclasses.Field[Any]]:
    """The options of one stage, or all of them."""
    return [f for f in dataclasses.fields(config) if stage is None or f.metadata["stages"] & {stage, "every"}]


def parse_numbers(
    given: Iterable[str], kinds: Mapping[str, Callable[[str], Number]], *, option: str, number: str = "a number"
) -> dict[str, Number]:
    """name -> number of each NAME=NUMBER; InputError for another name, and for what its kind raises ValueError at.

    option, number: the option, and what its numbers are, for that sentence.
    """
    found = {}
    for each in given:
        name, equals, figure = each.partition("=")
        try:
            found[name] = kinds[name](figure)
        except (KeyError, ValueError):
            equals = ""
        if not equals:
            raise InputError(
                f"{option} reads NAME=NUMBER with {number}; got {each!r}; names are {', '.join(kinds)}"
            )
    return found


def whole_number(figure: str) -> int:
    """A whole number of 0 or more."""
    if not figure.isdecimal():
        raise ValueError
    return int(figure)


def at_least_0(figure: str) -> float:
    """A finite number of 0 or more."""
    value = float(figure)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def arguments(config: Any, stage: str | None) -> list[str]:
    """The stage's options that aren't at their defaults, as a person would type them."""
    given: list[str] = []
    for each in options(type(config), stage):
        value = getattr(config, each.name)
        usual = each.default_factory() if callable(each.default_factory) else each.default
        if value == usual:
            continue
        words = [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
        given += [f"--{each.name.replace('_', '-')}", *words]
    return given


# -- parsers -----------------------------------------------------------------------------------------------------------


def base_parser(config: type) -> ArgumentParser:
    """What every command takes: configuration file, Spark's master and settings, --json, --tables."""
    parser = ArgumentParser()
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument(
        "--master",
        type=str | None,
        default=None,
        help="Spark master or Connect address; default: the active session, spark-submit's, else this machine",
    )
    parser.add_argument("--spark", type=str, nargs="+", default=[], metavar="KEY=VALUE", help="Spark settings")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    tables = next(f for f in options(config) if f.name == "tables")
    parser.add_argument("--tables", type=str, default="", help=tables.metadata["help"])
    return parser


def config_parser(config: type, stage: str | None) -> ArgumentParser:
    """`base_parser` with a flag for each option of the stage (None: of all)."""
    parser = base_parser(config)
    add_options(parser, config, stage)
    return parser


def add_options(parser: ArgumentParser, config: type, stage: str | None) -> None:
    """A flag for each option of the stage."""
    types = get_type_hints(config)
    for each in options(config, stage):
        if each.name == "tables":
            continue
        flag, help_ = "--" + each.name.replace("_", "-"), each.metadata["help"]
        if types[each.name] is bool:
            parser.add_argument(flag, action="store_true", help=help_)
        elif each.metadata["many"]:
            usual = list(each.default_factory()) if callable(each.default_factory) else []
            kind = int if int in get_args(types[each.name]) else str  # `int | tuple[int, ...]`: whole numbers
            parser.add_argument(flag, type=kind, nargs="+", default=usual, help=help_)
        else:
            default = each.default if each.default is not MISSING else None
            # YAML knows numbers: `sample: 0.2` is as good as `sample: "0.2"`.
            scalar = str | int | float if types[each.name] is str else types[each.name]
            parser.add_argument(flag, type=scalar, default=default, help=help_)


def completion_parser() -> ArgumentParser:
    """What `completion` takes: the shell."""
    parser = ArgumentParser()
    parser.add_argument("shell", type=str, choices=SHELLS, help="the shell that is to complete commands and options")
    return parser


def completion_script(parser: ArgumentParser, shell: str) -> str:
    """A script for the shell that completes the parser's commands and options without starting Python.

    The parser can't be used any more.
    """
    try:
        import shtab  # noqa: F401 - jsonargparse takes it from here
    except ImportError:
        raise MissingExtraError("shell completion", "completion") from None
    return str(parser.get_completion_script(f"shtab-{shell}"))


def read_config(config: type[Config], arguments: Namespace) -> Config:
    """The configuration that the parsed arguments say; raises what its `__post_init__` raises."""
    values: dict[str, Any] = {}
    types = get_type_hints(config)
    for each in options(config):
        if each.name in arguments:
            value = arguments[each.name]
            if each.metadata["many"]:
                value = tuple(value or ())
            values[each.name] = str(value) if types[each.name] is str else value
    return config(**values)


def open_session(arguments: Namespace) -> SparkSession:
    """The Spark session that --master and --spark ask for."""
    conf = {}
    for setting in arguments.spark:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--spark wants KEY=VALUE; got {setting!r}")
        conf[key] = value
    spark = get_session(master=arguments.master, conf=conf)
    interrupts_raise()
    return spark


# -- manners -----------------------------------------------------------------------------------------------------------


def run_command(
    program: str, parser: ArgumentParser, execute: Callable[[str, Namespace, Terminal], Any], argv: Sequence[str]
) -> int:
    """Parse, execute(command, its arguments, terminal), print the result for --json; returns the exit code.

    BETR_DEBUG set: errors are raised with what lies behind their sentence.
    """
    terminal = Terminal()
    arguments = parser.parse_args(list(argv))
    command: str = arguments.command
    chosen = arguments[command]
    while "command" in chosen:  # `bare review export`
        command, chosen = f"{command} {chosen.command}", chosen[chosen.command]
    interrupts_raise()
    try:
        if command == "completion":
            print(completion_script(parser, chosen.shell), flush=True)
            return 0
        result = execute(command, chosen, terminal)
    except InputError as error:
        if error.__cause__ is not None and os.environ.get("BETR_DEBUG"):
            raise  # Spark's own error lies behind the sentence
        terminal.line(f"{program} {command}: {error}")
        if isinstance(error, ChecksFailedError) and chosen.json:
            print(json.dumps(error.result, default=str), flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        _stop_spark()
        terminal.line(f"\nstopped; what was finished is kept: the same `{program} {command}` again goes on from there")
        return 130
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get("BETR_DEBUG"):
            raise
        terminal.line(f"{program} {command}: {sentence}")
        return 1
    if chosen.json:
        print(json.dumps(result, default=str), flush=True)
    return 0


def _stop_spark() -> None:
    with contextlib.suppress(Exception):  # the call that was broken off may have taken the line to Java with it
        spark = SparkSession.getActiveSession()
        if spark is not None:
            cancel_jobs(spark)

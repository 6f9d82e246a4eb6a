"""The command line: `betr run` and one command a stage; made from RunConfig, so that flags, YAML and help agree."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from betr import pipeline, show
from betr.config import RunConfig, options
from curation.errors import InputError, explain
from curation.progress import Terminal
from curation.session import cancel_jobs, get_session, interrupts_raise

STAGE_COMMANDS = {
    "import": "read documents into the table `documents`",
    "targets": "read benchmark examples into the table `benchmark_examples`",
    "sample": "draw the documents that are ranked",
    "embed": "embed the sample and the examples",
    "rank": "rank the sample by its nearness to the examples, and label it",
    "train": "train the classifier on the labels, or import one",
    "score": "score every document that has no score yet",
    "select": "cut the scored corpus at a token budget",
}
VIEWS = ("summary", "runs", "selections", "classifiers", "tables", "rejected", "duplicates")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 bad input (one sentence), 2 usage, 130 interrupted."""
    terminal = Terminal()
    parser = build_parser()
    arguments = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    command = arguments.command
    chosen = arguments[command]
    interrupts_raise()
    try:
        result = _run(command, chosen, terminal)
    except InputError as error:
        if error.__cause__ is not None and os.environ.get("BETR_DEBUG"):
            raise  # Spark's own error lies behind the sentence
        terminal.line(f"betr {command}: {error}")
        return 1
    except KeyboardInterrupt:
        _stop_spark()
        terminal.line(f"\nstopped; what was finished is kept: the same `betr {command}` again goes on from there")
        return 130
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get("BETR_DEBUG"):
            raise
        terminal.line(f"betr {command}: {sentence}")
        return 1
    if chosen.json:
        print(json.dumps(result, default=str), flush=True)
    return 0


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="betr",
        description="Benchmark-targeted ranking: keep the documents of a corpus that serve a model's tasks.",
        epilog="`betr COMMAND --help` tells the options of a command with their defaults.",
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    commands.add_subcommand(
        "run", _config_parser(None), help="everything that is missing or has changed, from documents to a selection"
    )
    for name, help_ in STAGE_COMMANDS.items():
        commands.add_subcommand(name, _config_parser(name), help=help_)

    explain_ = _base_parser()
    explain_.add_argument("doc_id", type=str, help="the document's id")
    commands.add_subcommand("explain", explain_, help="why a document is in a selection, or isn't")

    show_ = _base_parser()
    show_.add_argument("view", type=str, nargs="?", default="summary", choices=VIEWS, help="what to show")
    commands.add_subcommand("show", show_, help="runs, selections, classifiers, tables, rejected rows")
    return parser


def _base_parser() -> ArgumentParser:
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
    parser.add_argument("--tables", type=str, default="", help=_field("tables").metadata["help"])
    return parser


def _config_parser(stage: str | None) -> ArgumentParser:
    parser = _base_parser()
    types = get_type_hints(RunConfig)
    for option in options(stage):
        if option.name == "tables":
            continue
        flag = "--" + option.name.replace("_", "-")
        help_ = option.metadata["help"]
        if types[option.name] is bool:
            parser.add_argument(flag, action="store_true", help=help_)
        elif option.metadata["many"]:
            parser.add_argument(flag, type=str, nargs="+", default=[], help=help_)
        else:
            default = option.default if option.default is not MISSING else None
            # YAML knows numbers: `sample: 0.2` is as good as `sample: "0.2"`.
            kind = str | int | float if types[option.name] is str else types[option.name]
            parser.add_argument(flag, type=kind, default=default, help=help_)
    return parser


def _field(name: str) -> Any:
    return next(f for f in options() if f.name == name)


def _config(arguments: Namespace) -> RunConfig:
    values: dict[str, Any] = {}
    types = get_type_hints(RunConfig)
    for option in options():
        if option.name in arguments:
            value = arguments[option.name]
            if option.metadata["many"]:
                value = tuple(value or ())
            values[option.name] = str(value) if types[option.name] is str else value
    return RunConfig(**values)


def _run(command: str, arguments: Namespace, terminal: Terminal) -> Any:
    conf = {}
    for setting in arguments.spark:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--spark wants KEY=VALUE; got {setting!r}")
        conf[key] = value
    config = _config(arguments)
    spark = get_session(master=arguments.master, conf=conf)
    interrupts_raise()
    if command == "run":
        return pipeline.run(config, spark=spark, terminal=terminal)
    if command == "explain":
        return show.explain(config, arguments.doc_id, spark=spark, terminal=terminal)
    if command == "show":
        return show.show(config, arguments.view, spark=spark, terminal=terminal)
    return pipeline.run_stage(command, config, spark=spark, terminal=terminal)


def _stop_spark() -> None:
    from pyspark.sql import SparkSession

    spark = SparkSession.getActiveSession()
    if spark is not None:
        with contextlib.suppress(Exception):
            cancel_jobs(spark)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `betr run` and one command a stage; made from RunConfig, so that flags, YAML and help agree."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from betr import doctor, pipeline, show, trial
from betr.config import RunConfig
from betr.coverage import PLACES
from betr.trial import EstimateConfig
from curation.command import (
    add_options,
    base_parser,
    completion_parser,
    config_parser,
    open_session,
    read_config,
    run_command,
)
from curation.export import ExportConfig
from curation.progress import Terminal

STAGE_COMMANDS = {
    "import": "read documents into the table `documents`",
    "deduplicate": "find near-duplicates, and which of each cluster stays",
    "targets": "read benchmark examples into the table `benchmark_examples`",
    "sample": "draw the documents that are ranked",
    "embed": "embed the sample and the examples",
    "rank": "rank the sample by its nearness to the examples, and label it",
    "train": "train the classifier on the labels, or import one",
    "score": "score every document that has no score yet",
    "decontaminate": "find what the corpus shares with held-out test sets, document by document",
    "select": "cut the scored corpus at a token budget",
    "cover": "find which task examples chose what, and which have nothing near them",
    "watch": "compare the latest selection with the last one by the same settings",
}
TRACKED = ("train", "select", "watch")  # stages that MLflow hears of by themselves, beside `run` and `report`
VIEWS = (
    "summary", "run", "runs", "selections", "coverage", "drift", "contamination", "near-duplicates", "classifiers",
    "tables", "rejected", "duplicates",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 bad input (one sentence), 2 usage, 3 moved too far, 130 interrupted."""
    return run_command("betr", build_parser(), _run, sys.argv[1:] if argv is None else argv)


def task() -> None:
    """The command as a task of a scheduler that calls a function and doesn't look at what it returns: failures exit."""
    if code := main():
        sys.exit(code)


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="betr",
        description="Benchmark-targeted ranking: keep the documents of a corpus that serve a model's tasks.",
        epilog="`betr COMMAND --help` tells the options of a command with their defaults.",
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    commands.add_subcommand(
        "run",
        config_parser(RunConfig, None),
        help="everything that is missing or has changed, from documents to a selection",
    )
    for name, help_ in STAGE_COMMANDS.items():
        stage = config_parser(RunConfig, name)
        if name in TRACKED:
            add_options(stage, RunConfig, "mlflow")
        commands.add_subcommand(name, stage, help=help_)

    commands.add_subcommand(
        "estimate",
        config_parser(EstimateConfig, None),
        help="try slices of the documents, and say what `run` would take: time, machines, bytes, money",
    )
    explain_ = base_parser(RunConfig)
    explain_.add_argument("doc_id", type=str, help="the document's id")
    commands.add_subcommand("explain", explain_, help="why a document is in a selection, or isn't")

    report_ = config_parser(RunConfig, "report")
    report_.add_argument("--out", type=str, required=True, help="HTML file to write")
    add_options(report_, RunConfig, "mlflow")
    commands.add_subcommand("report", report_, help="draw the latest selection's page: one file, for people")
    gaps_ = base_parser(RunConfig)
    gaps_.add_argument("--count", type=int, default=20, help="how many examples")
    gaps_.add_argument("--of", type=str, default="corpus", choices=PLACES, help="what has nothing near them")
    gaps_.add_argument("--benchmark", type=str | None, default=None, help="only examples of this benchmark")
    gaps_.add_argument("--out", type=str | None, default=None, help="JSON lines to write: seeds that `bare` takes")
    commands.add_subcommand("gaps", gaps_, help="the task examples that are covered least, as seeds for `bare`")

    selection_help = "a selection: NAME (its latest version), NAME@VERSION, or its id"
    export_ = base_parser(RunConfig)
    export_.add_argument("--selection", type=str | None, default=None, help=f"{selection_help}; default: the latest")
    export_.add_argument("--out", type=str, required=True, help="folder for the shards, which every executor sees")
    add_options(export_, ExportConfig, "betr")
    commands.add_subcommand("export", export_, help="write a selection as shards that trainers read")

    release_ = base_parser(RunConfig)
    release_.add_argument("selection", type=str | None, nargs="?", default=None, help=f"{selection_help}; the latest")
    name_help = "the release's name; default: the selection's with its version"
    release_.add_argument("--name", type=str | None, default=None, help=name_help)
    commands.add_subcommand("release", release_, help="keep a selection with its text as a table of its own")

    diff_ = base_parser(RunConfig)
    diff_.add_argument("a", type=str, help=selection_help)
    diff_.add_argument("b", type=str, help=selection_help)
    diff_.add_argument("--by", type=str, nargs="+", default=[], help="metadata to tell apart by: metadata.domain")
    commands.add_subcommand("diff", diff_, help="what selection B holds and A doesn't, and the other way round")

    show_ = base_parser(RunConfig)
    show_.add_argument("view", type=str, nargs="?", default="summary", choices=VIEWS, help="what to show")
    id_help = "of the view run: the run's id, the id's beginning, or latest"
    show_.add_argument("id", type=str | None, nargs="?", default=None, help=id_help)
    commands.add_subcommand("show", show_, help="runs, where their time went, selections, tables, rejected rows")

    doctor_ = base_parser(RunConfig)
    commands.add_subcommand("doctor", doctor_, help="check this machine, its Spark session, executors and kernel")
    completion_help = "print a script that completes commands and options in bash or zsh"
    commands.add_subcommand("completion", completion_parser(), help=completion_help)
    return parser


def _run(command: str, arguments: Namespace, terminal: Terminal) -> Any:
    if command == "doctor":
        return doctor.examine(lambda: open_session(arguments), tables=arguments.tables, terminal=terminal)
    if command == "estimate":
        planned, began = read_config(EstimateConfig, arguments), time.monotonic()
        spark = open_session(arguments)
        return trial.estimate(planned, spark=spark, terminal=terminal, start=time.monotonic() - began)
    if command == "release":
        named = RunConfig(tables=arguments.tables)  # its --name isn't the selection's
        spark = open_session(arguments)
        return pipeline.release_selection(
            named, arguments.selection, name=arguments.name, spark=spark, terminal=terminal
        )
    if command == "export":  # its --epochs aren't those of the classifier
        where, how = RunConfig(tables=arguments.tables), read_config(ExportConfig, arguments)
        wanted = {"selection": arguments.selection, "spark": open_session(arguments), "terminal": terminal}
        return pipeline.export_selection(where, how, arguments.out, **wanted)
    config = read_config(RunConfig, arguments)
    spark = open_session(arguments)
    if command == "run":
        return pipeline.run(config, spark=spark, terminal=terminal)
    if command == "report":
        return pipeline.draw_page(config, arguments.out, spark=spark, terminal=terminal)
    if command == "gaps":
        wanted = {name: arguments[name] for name in ("count", "of", "benchmark", "out")}
        return pipeline.list_gaps(config, spark=spark, terminal=terminal, **wanted)
    if command == "diff":
        return pipeline.compare_selections(config, arguments.a, arguments.b, spark=spark, terminal=terminal)
    if command == "explain":
        return show.explain(config, arguments.doc_id, spark=spark, terminal=terminal)
    if command == "show":
        return show.show(config, arguments.view, spark=spark, terminal=terminal, run_id=arguments.id)
    return pipeline.run_stage(command, config, spark=spark, terminal=terminal)


if __name__ == "__main__":
    sys.exit(main())

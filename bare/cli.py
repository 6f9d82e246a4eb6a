"""The command line: `bare run` and one command a stage or view; made from BareConfig, with the manners of `betr`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from bare import comparison, pipeline, publish
from bare.config import BareConfig
from bare.show import VIEWS
from curation.command import (
    add_options,
    completion_parser,
    config_parser,
    open_session,
    read_config,
    run_command,
)
from curation.errors import InputError
from curation.export import ExportConfig
from curation.progress import Terminal
from curation.shards import FORMATS

COMMANDS = {
    "run": "draft, refine and judge until enough rows are accepted or a budget is spent",
    "estimate": "make a small trial wave, and say what the rest would cost",
    "draft": "draft every item that lacks an accepted row",
    "refine": "refine and judge what is drafted",
    "judge": "ask a judge which of three real rows and a synthetic one is the worst",
    "measure": "measure the accepted rows beside real ones",
    "compare": "make the same rows in several ways, and compare them at equal rows and at equal cost",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 bad input (one sentence), 2 usage, 130 interrupted."""
    return run_command("bare", build_parser(), _run, sys.argv[1:] if argv is None else argv)


def task() -> None:
    """The command as a task of a scheduler that calls a function and doesn't look at what it returns: failures exit."""
    if code := main():
        sys.exit(code)


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bare",
        description="Base drafts, instruct refines: synthetic examples for a task, diverse and right, each explained.",
        epilog="`bare COMMAND --help` tells the options of a command with their defaults.",
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for name, help_ in COMMANDS.items():
        commands.add_subcommand(name, config_parser(BareConfig, name), help=help_)
    show = config_parser(BareConfig, "show")
    show.add_argument("view", type=str, nargs="?", default="summary", choices=VIEWS, help="what to show")
    commands.add_subcommand("show", show, help="verdicts, rows, measures, rounds, generations")
    card = config_parser(BareConfig, "card")
    card.add_argument("--out", type=str, required=True, help="file to write the data card to (README.md for a hub)")
    commands.add_subcommand("card", card, help="write the data card of a generation")
    report = config_parser(BareConfig, "report")
    report.add_argument("--out", type=str, required=True, help="HTML file to write")
    commands.add_subcommand("report", report, help="draw a generation's page: one file, for people")
    export = config_parser(BareConfig, "export")
    places = "JSON lines file (.jsonl, .jsonl.gz) to write, or with --format the folder of the shards"
    export.add_argument("--out", type=str, required=True, help=places)
    formats = f"write shards that trainers read: {', '.join(FORMATS)}; default: one JSON lines file"
    export.add_argument("--format", type=str | None, default=None, help=formats)
    add_options(export, ExportConfig, "bare")
    commands.add_subcommand("export", export, help="write the accepted rows with where each comes from")
    _add_review(commands)
    completion_help = "print a script that completes commands and options in bash or zsh"
    commands.add_subcommand("completion", completion_parser(), help=completion_help)
    return parser


def _add_review(commands: Any) -> None:
    review = ArgumentParser()
    commands.add_subcommand("review", review, help="people in the loop: sheets out, verdicts in")
    parts = review.add_subcommands(dest="command", metavar="export|import")
    export = config_parser(BareConfig, "review")
    export.add_argument("--out", type=str, required=True, help="folder for the sheet (CSV) and the page to read")
    export.add_argument("--rows", type=int, default=50, help="rows to review, from each verdict in its share")
    parts.add_subcommand("export", export, help="write a stratified sample: sheet.csv and page.html")
    import_ = config_parser(BareConfig, "review")
    import_.add_argument("--sheet", type=str, nargs="+", required=True, help="filled-in sheets (CSV)")
    parts.add_subcommand("import", import_, help="read sheets that came back; a bad one is refused whole")


def _run(command: str, arguments: Namespace, terminal: Terminal) -> Any:
    config = read_config(BareConfig, arguments)
    extra = {name: arguments[name] for name in ("view", "out", "rows", "sheet") if name in arguments}
    if command == "export":
        extra["how"] = _shards(arguments)
    spark = open_session(arguments)
    return _COMMANDS[command](config, spark=spark, terminal=terminal, **extra)


def _shards(arguments: Namespace) -> ExportConfig | None:
    if arguments.format is not None:
        return read_config(ExportConfig, arguments)
    if any(arguments[name] != getattr(ExportConfig, name) for name in ("shard_bytes", "epochs", "order_seed")):
        raise InputError("--shard-bytes, --epochs and --order-seed say how shards are written; add --format")
    return None


_COMMANDS: dict[str, Any] = {
    **pipeline.COMMANDS,
    "compare": comparison.run_arms,
    "report": publish.report,
    "card": publish.card,
    "export": publish.export,
    "review export": publish.review_export,
    "review import": publish.review_import,
}


if __name__ == "__main__":
    sys.exit(main())

"""The command line `evaluate`: made from its configurations, so that flags, YAML and help agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from curation.command import completion_parser, config_parser, open_session, read_config, run_command
from curation.progress import Terminal
from evaluation import pipeline
from evaluation.config import EvaluationConfig, RoiConfig
from evaluation.downstream_config import DownstreamConfig
from evaluation.downstream_pipeline import run_downstream
from evaluation.loop_config import LoopConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 bad input (one sentence), 2 usage, 130 interrupted."""
    return run_command("evaluate", build_parser(), _run, sys.argv[1:] if argv is None else argv)


def task() -> None:
    """The command as a task of a scheduler that calls a function and doesn't look at what it returns: failures exit."""
    if code := main():
        sys.exit(code)


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="evaluate",
        description="Does a model trained on a selection get better, and at what cost.",
        epilog="`evaluate COMMAND --help` tells the options of a command with their defaults.",
    )
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    commands.add_subcommand(
        "compare",
        config_parser(EvaluationConfig, None),
        help="arms at equal tokens, small models trained on each, their page: whatever is missing of it",
    )
    commands.add_subcommand(
        "arms",
        config_parser(EvaluationConfig, "arms"),
        help="choose as many tokens in other ways: random, direct fastText, DSIR and others, each a selection",
    )
    commands.add_subcommand(
        "roi",
        config_parser(RoiConfig, None),
        help="what the latest comparison's selection cost, and what it brings back: one page for who pays",
    )
    commands.add_subcommand(
        "downstream",
        config_parser(DownstreamConfig, None),
        help="a model fine-tuned on each arm of a `bare compare`: what made rows are worth, and for rare labels",
    )
    commands.add_subcommand(
        "loop",
        config_parser(LoopConfig, None),
        help="let BARE write what the selection lacks, select of it, and measure the gaps again: before and after",
    )
    completion_help = "print a script that completes commands and options in bash or zsh"
    commands.add_subcommand("completion", completion_parser(), help=completion_help)
    return parser


def _run(command: str, arguments: Namespace, terminal: Terminal) -> Any:
    if command == "roi":
        told = read_config(RoiConfig, arguments)
        return pipeline.run_roi(told, spark=open_session(arguments), terminal=terminal)
    if command == "downstream":
        asked = read_config(DownstreamConfig, arguments)
        return run_downstream(asked, spark=open_session(arguments), terminal=terminal)
    if command == "loop":
        closing = read_config(LoopConfig, arguments)
        return pipeline.close_loop(closing, spark=open_session(arguments), terminal=terminal)
    config = read_config(EvaluationConfig, arguments)
    spark = open_session(arguments)
    if command == "arms":
        return pipeline.make_arms(config, spark=spark, terminal=terminal)
    return pipeline.run_comparison(config, spark=spark, terminal=terminal)


if __name__ == "__main__":
    sys.exit(main())

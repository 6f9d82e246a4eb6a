"""spark-submit jobs/evaluate_downstream.py OPTIONS: the same as `evaluate downstream OPTIONS`."""

import sys

from evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main(["downstream", *sys.argv[1:]]))

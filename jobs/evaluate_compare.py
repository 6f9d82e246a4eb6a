"""spark-submit jobs/evaluate_compare.py OPTIONS: the same as `evaluate compare OPTIONS`."""

import sys

from evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))

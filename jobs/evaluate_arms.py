"""spark-submit jobs/evaluate_arms.py OPTIONS: the same as `evaluate arms OPTIONS`."""

import sys

from evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main(["arms", *sys.argv[1:]]))

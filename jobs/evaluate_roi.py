"""spark-submit jobs/evaluate_roi.py OPTIONS: the same as `evaluate roi OPTIONS`."""

import sys

from evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main(["roi", *sys.argv[1:]]))

"""spark-submit jobs/close_the_loop.py OPTIONS: the same as `evaluate loop OPTIONS`."""

import sys

from evaluation.cli import main

if __name__ == "__main__":
    sys.exit(main(["loop", *sys.argv[1:]]))

"""spark-submit jobs/bare_run.py OPTIONS: the same as `bare run OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))

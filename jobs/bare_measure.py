"""spark-submit jobs/bare_measure.py OPTIONS: the same as `bare measure OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["measure", *sys.argv[1:]]))

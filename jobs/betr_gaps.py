"""spark-submit jobs/betr_gaps.py OPTIONS: the same as `betr gaps OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["gaps", *sys.argv[1:]]))

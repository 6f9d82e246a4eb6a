"""spark-submit jobs/betr_targets.py OPTIONS: the same as `betr targets OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["targets", *sys.argv[1:]]))

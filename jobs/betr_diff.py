"""spark-submit jobs/betr_diff.py OPTIONS: the same as `betr diff OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["diff", *sys.argv[1:]]))

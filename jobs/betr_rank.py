"""spark-submit jobs/betr_rank.py OPTIONS: the same as `betr rank OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["rank", *sys.argv[1:]]))

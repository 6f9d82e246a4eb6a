"""spark-submit jobs/betr_score.py OPTIONS: the same as `betr score OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))

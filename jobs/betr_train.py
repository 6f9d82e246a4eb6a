"""spark-submit jobs/betr_train.py OPTIONS: the same as `betr train OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

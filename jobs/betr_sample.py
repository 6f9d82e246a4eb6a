"""spark-submit jobs/betr_sample.py OPTIONS: the same as `betr sample OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))

"""spark-submit jobs/betr_estimate.py OPTIONS: the same as `betr estimate OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["estimate", *sys.argv[1:]]))

"""spark-submit jobs/betr_run.py OPTIONS: the same as `betr run OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))

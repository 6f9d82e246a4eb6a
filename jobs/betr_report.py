"""spark-submit jobs/betr_report.py OPTIONS: the same as `betr report OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))

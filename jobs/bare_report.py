"""spark-submit jobs/bare_report.py OPTIONS: the same as `bare report OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))

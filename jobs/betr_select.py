"""spark-submit jobs/betr_select.py OPTIONS: the same as `betr select OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["select", *sys.argv[1:]]))

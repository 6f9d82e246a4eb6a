"""spark-submit jobs/betr_export.py OPTIONS: the same as `betr export OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

"""spark-submit jobs/betr_deduplicate.py OPTIONS: the same as `betr deduplicate OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["deduplicate", *sys.argv[1:]]))

"""spark-submit jobs/betr_watch.py OPTIONS: the same as `betr watch OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["watch", *sys.argv[1:]]))

"""spark-submit jobs/betr_cover.py OPTIONS: the same as `betr cover OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["cover", *sys.argv[1:]]))

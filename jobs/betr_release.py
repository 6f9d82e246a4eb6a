"""spark-submit jobs/betr_release.py OPTIONS: the same as `betr release OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["release", *sys.argv[1:]]))

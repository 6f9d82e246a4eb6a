"""spark-submit jobs/bare_export.py OPTIONS: the same as `bare export OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

"""spark-submit jobs/bare_refine.py OPTIONS: the same as `bare refine OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["refine", *sys.argv[1:]]))

"""spark-submit jobs/bare_judge.py OPTIONS: the same as `bare judge OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["judge", *sys.argv[1:]]))

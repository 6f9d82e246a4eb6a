"""spark-submit jobs/bare_draft.py OPTIONS: the same as `bare draft OPTIONS`."""

import sys

from bare.cli import main

if __name__ == "__main__":
    sys.exit(main(["draft", *sys.argv[1:]]))

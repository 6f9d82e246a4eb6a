"""spark-submit jobs/betr_embed.py OPTIONS: the same as `betr embed OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))

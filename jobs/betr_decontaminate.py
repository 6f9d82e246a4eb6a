"""spark-submit jobs/betr_decontaminate.py OPTIONS: the same as `betr decontaminate OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["decontaminate", *sys.argv[1:]]))

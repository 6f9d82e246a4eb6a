"""spark-submit jobs/betr_import.py OPTIONS: the same as `betr import OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["import", *sys.argv[1:]]))

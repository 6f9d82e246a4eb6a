"""spark-submit jobs/betr_doctor.py OPTIONS: the same as `betr doctor OPTIONS`."""

import sys

from betr.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))

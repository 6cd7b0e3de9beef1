"""Reproduce Table 1 of He et al. 2020 on a corpus: `python jobs/reproduce_table1.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/reproduce_table1.py …`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["table1", *sys.argv[1:]])

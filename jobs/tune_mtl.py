"""Search the multi-task model's settings: `python jobs/tune_mtl.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/tune_mtl.py …`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["tune", "mtl", *sys.argv[1:]])

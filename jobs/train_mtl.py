"""Train the multi-task model: `python jobs/train_mtl.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/train_mtl.py --corpus s3://… --results s3://…`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["train", "mtl", *sys.argv[1:]])

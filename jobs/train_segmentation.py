"""Train a segmentation network: `python jobs/train_segmentation.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/train_segmentation.py --corpus s3://… --results s3://…`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["train", "segmentation", *sys.argv[1:]])

"""Train a classifier of many classes, most of them rare: `python jobs/train_longtail.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/train_longtail.py --corpus s3://… --results s3://…`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["train", "longtail", *sys.argv[1:]])

"""Train a tagger: `python jobs/train_tagging.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/train_tagging.py --corpus s3://… --results s3://…`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["train", "tagging", *sys.argv[1:]])

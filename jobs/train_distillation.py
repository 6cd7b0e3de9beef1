"""Train a classifying student together with its teacher: `python jobs/train_distillation.py --help`, or on a cluster
`ray job submit --working-dir . -- python jobs/train_distillation.py --corpus s3://… --results s3://…`. For students that tag photos or know a long
tail of classes: `foodray train tagging-distillation`, `foodray train longtail-distillation`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["train", "mtl-distillation", *sys.argv[1:]])

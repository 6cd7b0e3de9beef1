"""Examine a cluster and its storage before a long run: `ray job submit --working-dir . -- python jobs/doctor.py --storage s3://… --gpus 4`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["doctor", *sys.argv[1:]])

"""Score a whole archive of photos: `ray job submit --working-dir . -- python jobs/score_archive.py --study … --results … --bundles …`."""

import sys

from foodray.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])

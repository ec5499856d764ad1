"""Score what came in since the last run, on the Ray cluster that runs this job. Options: those of `musc-ray rescore`.

ray job submit --working-dir . -- python jobs/nightly.py --config jobs/nightly.yaml
"""

import sys

from musc_ray.cli import main

if __name__ == "__main__":
    main(["rescore", *sys.argv[1:]])

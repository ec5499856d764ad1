"""Score an archive on the Ray cluster that runs this job. Options: those of `musc-ray run`.

ray job submit --working-dir . -- python jobs/archive.py --config jobs/archive.yaml
"""

import sys

from musc_ray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])

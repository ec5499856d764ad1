"""Run MuSc's protocol on a dataset, on the Ray cluster that runs this job. Options: those of `musc-ray benchmark`.

ray job submit --working-dir . -- python jobs/evaluate.py --config jobs/evaluate.yaml --set source=... --set out=...
"""

import sys

from musc_ray.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])

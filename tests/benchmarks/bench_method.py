"""How the constants of `method: tuned` are chosen, and what they gain over the paper's.

    python tests/benchmarks/bench_method.py [PART ...] [--cache FOLDER]

DINOv2 ViT-S/14 on solar cells (ELPV) and on the folders of the shared data; a folder that is missing is left out. The
parts (see --help) take minutes each; without one, all of them run. Tokens and distances are files of the cache (about
20 GB), by default a temporary folder; with `--cache` a part that was stopped continues. `judged` and `all-cells` are
runs of the product itself; the others score with bfloat16 products and compare maps with masks on a canvas of 128 x 128
pixels in the shape of the set. Figures are image AUROC, image AP, pixel AP, AUPRO, in percent.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine
from method_study.image_level import run_rescoring, run_scores
from method_study.inputs import run_resampling, run_sizes
from method_study.judged import run_all_cells, run_judged
from method_study.position import run_foreground, run_position, run_turned
from method_study.scored import Study
from method_study.search import run_constants, run_left_out
from method_study.subsets import run_few, run_interval

PARTS: dict[str, Callable[[Study], None]] = {
    "constants": run_constants,
    "left-out": run_left_out,
    "interval": run_interval,
    "scores": run_scores,
    "rescoring": run_rescoring,
    "position": run_position,
    "foreground": run_foreground,
    "turned": run_turned,
    "sizes": run_sizes,
    "resampling": run_resampling,
    "few": run_few,
    "judged": run_judged,
    "all-cells": run_all_cells,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *PARTS], help=", ".join(PARTS))
    parser.add_argument("--cache", type=Path, help="folder of tokens and distances")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        study = Study(arguments.cache or Path(folder))
        for part in arguments.parts or PARTS:
            started = time.monotonic()
            print(f"\n# {part}", flush=True)
            PARTS[part](study)
            print(f"({part}: {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

"""ELPV solar cells (Buerhop et al., 2018; Deitsch et al., 2019) from the PyPI package `elpv-dataset`."""

import csv
import random
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from musc_ray.errors import MuscRayError, SettingsError

SEED = 0
GOOD_SHARE = 0.75
"""Of a sample: mostly good cells, as an archive would hold; of all mono cells 65 % are good."""


@dataclass(frozen=True)
class SolarCell:
    """A picture of a mono-crystalline cell and its label, 1 = defective."""

    path: Path
    label: int


def mono_cells(count: int | None) -> list[SolarCell]:
    """The mono cells whose defect probability is 0 or 1, or a seeded sample of so many of them, three good to one bad.

    Raises:
        MuscRayError: the package is not installed.
        SettingsError: fewer than 2 cells asked for, or more than there are.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MuscRayError("The demo's images are not installed: run `pip install 'musc-ray[demo]'`.")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    cells = []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        for name, probability, kind in csv.reader(file, delimiter=" ", skipinitialspace=True):
            if kind == "mono" and float(probability) in (0.0, 1.0):
                cells.append(SolarCell(folder / name, int(float(probability))))
    if count is None:
        return cells
    good, bad = ([cell for cell in cells if cell.label == label] for label in (0, 1))
    most = int(len(good) / GOOD_SHARE)
    if not 2 <= count <= most:
        raise SettingsError(f"--images must be 'all' or a number from 2 to {most}, not {count}.")
    chance = random.Random(SEED)  # noqa: S311, a sample is no secret
    good_count = round(GOOD_SHARE * count)
    return chance.sample(good, good_count) + chance.sample(bad, count - good_count)

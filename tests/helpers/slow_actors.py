"""Actors whose last step is slower than what feeds it, in a module that Ray's workers can import."""

import os
import time
from typing import Any

import numpy as np

from musc_ray.features.extraction import ExtractStats
from musc_ray.features.extractor import Extractor, Take
from musc_ray.scoring.band_reducer import BandReducer
from musc_ray.scoring.block_multiplier import BlockMultiplier
from musc_ray.scoring.scorer import Scorer

PAUSE = "MUSC_RAY_TEST_PAUSE"
"""Environment variable: seconds that the model takes more for an image, or how many times as long as a block a band."""


class SlowModel(Extractor):
    """An extractor whose model takes its time."""

    def _forward(self, pictures: np.ndarray, stats: ExtractStats, take: Take) -> list[Any]:
        time.sleep(float(os.environ[PAUSE]) * len(pictures))
        return super()._forward(pictures, stats, take)


class TimedMultiplier(BlockMultiplier):
    """Keeps how long its last block took."""

    seconds = 0.0

    def _multiply(self, task: Any, shards: Any) -> Any:
        parts, stats = super()._multiply(task, shards)
        self.seconds = stats.seconds_in_kernel
        return parts, stats


class SlowBands(BandReducer):
    """Reduces a band in a multiple of the time that the last block took."""

    multiplier: TimedMultiplier

    def write(self, *arguments: Any) -> float:
        time.sleep(float(os.environ[PAUSE]) * self.multiplier.seconds)
        return super().write(*arguments)


class SlowReducer(Scorer):
    """A worker that reduces a band in a multiple of the time of a block."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.multiplier = TimedMultiplier(self.cache)
        self.reducer = SlowBands(self.settings, self.run_paths, self.cache.device)
        self.reducer.multiplier = self.multiplier

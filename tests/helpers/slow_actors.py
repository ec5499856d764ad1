"""Actors whose last step is slower than what feeds it, in a module that Ray's workers can import."""

import os
import time
from typing import Any

import numpy as np

from musc_ray.features.extraction import ExtractStats
from musc_ray.features.extractor import Extractor, Features
from musc_ray.scoring.scorer import Scorer

PAUSE = "MUSC_RAY_TEST_PAUSE"
"""Environment variable: seconds that the model takes more for an image, or how many times as long as a block a band."""


class SlowModel(Extractor):
    """An extractor whose model takes its time."""

    def _forward(self, pictures: np.ndarray, stats: ExtractStats) -> Features:
        time.sleep(float(os.environ[PAUSE]) * len(pictures))
        return super()._forward(pictures, stats)


class SlowReducer(Scorer):
    """A scorer that needs so many times as long to reduce a band as to multiply a block."""

    multiplying = 0.0

    def _multiply(self, task: Any, shards: Any) -> Any:
        parts, stats = super()._multiply(task, shards)
        self.multiplying = stats.seconds_in_kernel
        return parts, stats

    def _reduce(self, *arguments: Any) -> float:
        time.sleep(float(os.environ[PAUSE]) * self.multiplying)
        return super()._reduce(*arguments)

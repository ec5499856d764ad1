"""A run's live figures on Ray's Prometheus endpoint, where Ray puts `ray_` before each name.

`cluster/grafana/musc_ray.json` shows them. The driver exports them all: the results of every task pass through it.
"""

from collections import Counter as Counts

from ray.util import metrics

from musc_ray.runtime.progress import Stage

TAGS = ("run", "stage")
COUNTERS = {
    "images": "Images that a stage has done.",
    "tiles": "Tiles that are multiplied.",
    "groups": "Groups that are published.",
    "bytes_written": "Bytes of features written.",
    "errors": "Images that could not be read.",
}
GAUGES = {"queue": "Images, tiles or groups that a stage still has to do."}


def metric_name(figure: str) -> str:
    """The name of a figure's metric, without what Ray puts around it."""
    return f"musc_ray_{figure}"


class RunMetrics:
    """Exports the stages of a run; made while Ray is there, and called with a stage whenever it has changed."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._counters = {name: metrics.Counter(metric_name(name), text, TAGS) for name, text in COUNTERS.items()}
        self._gauges = {name: metrics.Gauge(metric_name(name), text, TAGS) for name, text in GAUGES.items()}
        self._exported: Counts[tuple[str, str]] = Counts()

    def __call__(self, stage: Stage) -> None:
        """Export what is new in a stage; what an earlier run has done is none of this run's counts."""
        tags = {"run": self._run_id, "stage": stage.name}
        for name, value in {stage.unit: stage.done - stage.earlier, **stage.further}.items():
            fresh = value - self._exported[stage.name, name]
            if fresh > 0 and name in self._counters:
                self._counters[name].inc(fresh, tags)
                self._exported[stage.name, name] = value
        if stage.total is not None:
            self._gauges["queue"].set(stage.total - stage.done, tags)

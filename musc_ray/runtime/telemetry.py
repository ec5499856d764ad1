"""Live telemetry of a run on Ray's Prometheus endpoint, which prefixes each name with `ray_`.

`cluster/grafana/musc_ray.json` shows it. The driver exports all figures: the results of every task pass through it.
"""

from collections import Counter as Counts

from ray.util import metrics

from musc_ray.runtime.stage import Stage

TAGS = ("run", "stage")
COUNTERS = {
    "images": "Images that a stage has finished.",
    "tiles": "Tiles multiplied.",
    "groups": "Groups ranked and written.",
    "bytes_written": "Bytes of features written.",
    "errors": "Images that could not be read.",
}
GAUGES = {"queue": "Images, tiles or groups that a stage still has to do."}


def metric_name(figure: str) -> str:
    """Return the metric name of a figure, without the prefix and suffix that Ray adds."""
    return f"musc_ray_{figure}"


class RunMetrics:
    """Exporter of the stages of a run; created while Ray is running, called with a stage whenever it has changed."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._counters = {name: metrics.Counter(metric_name(name), text, TAGS) for name, text in COUNTERS.items()}
        self._gauges = {name: metrics.Gauge(metric_name(name), text, TAGS) for name, text in GAUGES.items()}
        self._exported: Counts[tuple[str, str]] = Counts()

    def __call__(self, stage: Stage) -> None:
        """Export the new counts of a stage, without what an earlier run has done."""
        tags = {"run": self._run_id, "stage": stage.name}
        for name, value in {stage.unit: stage.done - stage.earlier, **stage.further}.items():
            fresh = value - self._exported[stage.name, name]
            if fresh > 0 and name in self._counters:
                self._counters[name].inc(fresh, tags)
                self._exported[stage.name, name] = value
        if stage.total is not None:
            self._gauges["queue"].set(stage.total - stage.done, tags)

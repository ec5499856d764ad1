"""Estimate the time left of a stage from the times at which its units end."""

MIN_EVENTS = 3
"""Ends of units that a rate is estimated from, at least; any two give some rate."""


class TimeLeft:
    """Estimate of a stage's rate and end; silent until they mean something.

    Units end in lumps (a shard of images, a block of tiles), and those of several workers nearly together. The first
    ones end late: workers start and models are loaded before. So the time until the first end, the warm-up, does not
    count in the rate, which is the slope of the line of least squares through the counts at the ends; and there is no
    estimate until units have ended for as long as the warm-up lasted: all may be of the workers' first lumps.

    Attributes:
        start: time at which the stage started, in seconds; later, at which its workers had.
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self._events = 0
        self._first = self._last = start
        self._longest_gap = 0.0
        self._count = 0
        self._sum_t = self._sum_c = self._sum_tt = self._sum_tc = 0.0

    def ready(self, now: float) -> None:
        """Say that workers have started and models are loaded, before the first unit ends: the stage starts now."""
        if not self._events:
            self.start = now

    def add(self, count: int, now: float) -> None:
        """Add units that have just ended."""
        if self._events:
            self._longest_gap = max(self._longest_gap, now - self._last)
            self._count += count
        else:
            self._first = now
        self._events += 1
        self._last = now
        t = now - self._first
        self._sum_t += t
        self._sum_c += self._count
        self._sum_tt += t * t
        self._sum_tc += t * self._count

    @property
    def rate(self) -> float | None:
        """Return the rate until the last end in units per second, without the warm-up; None while it means nothing."""
        seen = self._last - self._first
        spread = self._events * self._sum_tt - self._sum_t**2
        if self._events < MIN_EVENTS or seen <= 0 or seen < self._first - self.start or spread <= 0:
            return None
        slope = (self._events * self._sum_tc - self._sum_t * self._sum_c) / spread
        return slope if slope > 0 else None

    def seconds_left(self, remaining: int, now: float) -> float | None:
        """Return the time until `remaining` units have ended, too; None while it means nothing.

        It counts down while no unit ends, and up again when that lasts longer than ever before.
        """
        rate = self.rate
        if rate is None:
            return None
        waited = now - self._last
        late = max(0.0, waited - self._longest_gap)
        seen = self._last - self._first
        return max(0.0, remaining / rate * (seen + late) / seen - (waited - late)) if remaining else 0.0

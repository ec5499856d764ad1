"""Peak memory of every process of a run, sampled while it goes on."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

SAMPLE_SECONDS = 1.0


class PeakMemory:
    """A context manager that watches this process and its descendants: a shared machine runs others, too.

    Attributes:
        peaks: largest anonymous memory (what a process needs for itself; neither mapped files nor the object store)
            by the name of the process, in bytes; of several processes of a name the largest.
        total: largest sum of proportional set sizes (shared pages counted once).
        samples: seconds since the start, and that sum without mapped files: their share of a page changes with others.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.total = 0
        self.samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(SAMPLE_SECONDS):
            total = own = 0
            this = psutil.Process()
            for process in (this, *this.children(recursive=True)):
                try:
                    name = process.name().split("(")[0].split(".")[0]
                    fields = _rollup(process.pid)
                except (psutil.Error, OSError):  # gone meanwhile
                    continue
                total += fields["Pss"]
                own += fields["Pss"] - fields["Pss_File"]
                self.peaks[name] = max(self.peaks.get(name, 0), fields["Anonymous"])
            self.total = max(self.total, total)
            self.samples.append((time.monotonic() - started, own))


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by field of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}

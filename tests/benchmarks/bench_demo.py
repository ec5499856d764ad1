"""The demo as a user runs it: image AUROC, time and memory of all its processes, in `auto` and in exact arithmetic.

python tests/benchmarks/bench_demo.py
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from machine import describe_machine


def peak_memory(process: psutil.Process, stop: threading.Event, peak: list[int]) -> None:
    """Sample the proportional set size (shared pages counted once) of everything started since, twice a second."""
    before = set(psutil.pids()) - {process.pid}
    while not stop.wait(0.5):
        total = 0
        for other in psutil.process_iter():
            if other.pid not in before:
                try:
                    total += other.memory_full_info().pss
                except psutil.Error:  # gone meanwhile
                    continue
        peak[0] = max(peak[0], total)


def run_demo(folder: Path, *options: str) -> tuple[dict, float, int]:
    """run.json, seconds and peak bytes of one demo."""
    command = [sys.executable, "-m", "musc_ray.cli", "demo", str(folder), "--quiet", *options]
    started = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    stop, peak = threading.Event(), [0]
    sampler = threading.Thread(target=peak_memory, args=(process, stop, peak))
    sampler.start()
    code = process.wait()
    seconds = time.perf_counter() - started
    stop.set()
    sampler.join()
    assert code == 0
    newest = max(folder.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text()), seconds, peak[0]


def main() -> None:
    print(describe_machine())
    print(f"{'precision':10} {'image AUROC':>11} {'whole s':>8} {'extract s':>9} {'mutual s':>8} {'peak GB':>8}")
    for precision in ("auto", "float32"):
        with tempfile.TemporaryDirectory() as folder:
            run, seconds, peak = run_demo(Path(folder), "--set", f"precision={precision}")
        stages = run["stages"]
        print(
            f"{precision:10} {run['metrics']['image AUROC']:11.4f} {seconds:8.1f} {stages['extract']['seconds']:9.1f} "
            f"{stages['mutual']['seconds']:8.1f} {peak / 1e9:8.2f}"
        )


if __name__ == "__main__":
    main()

"""The faults of the campaign: each is done to a plant and an attempt at a random moment, and undone after a while."""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.plant import Attempt, Plant
from tests.helpers.processes import kill, named

STAGES = ("catalog", "extract", "mutual", "reduce", "rank", "report")
SCORING = ("mutual", "reduce", "rank")
WORKER = "ray::WorkerProcess"
VICTIM_SECONDS = 60
CUT_SECONDS = 20
SKEWS = ("+600", "-600", "+7200", "-7200", "+86400", "-86400")
"""Seconds that a clock jumps; S3 accepts 15 minutes."""

Strike = Callable[[Plant, Attempt, random.Random], bool]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        kind: its row in the table of results.
        stages: it begins in one of them.
        strike: does it; false if the attempt was over before.
        lasts: seconds until the plant is mended, least and most; 0: nothing to undo before the next attempt.
        may_end: whether the command may give up, with one sentence, and be run again.
        ends: whether the command cannot but end.
        possible: whether this machine allows it.
    """

    kind: str
    stages: tuple[str, ...]
    strike: Strike
    lasts: tuple[float, float] = (0, 0)
    may_end: bool = False
    ends: bool = False
    possible: Callable[[Plant], bool] = lambda plant: True


def _kill_worker(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
    if not attempt.wait_for(lambda: named(WORKER), VICTIM_SECONDS):
        return False
    victims = named(WORKER)
    if victims:
        kill(chance.choice(victims))
    return bool(victims)


def _kill_raylet(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
    """One that has a worker of the job, if there is one."""
    raylets = sorted(node.all_processes["raylet"][0].process.pid for node in plant.cluster.worker_nodes)
    busy = [pid for pid in raylets if named(WORKER, pid)]
    os.kill(chance.choice(busy or raylets), signal.SIGKILL)
    return True


def _kill_head(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
    for name in ("gcs_server", "raylet"):
        os.kill(plant.cluster.head_node.all_processes[name][0].process.pid, signal.SIGKILL)
    return True


def _kill_driver(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
    if attempt.over:
        return False
    attempt.process.kill()
    return True


def _store(*modes: str) -> Strike:
    def strike(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
        plant.store.set(chance.choice(modes))
        return True

    return strike


def _fill_disk(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
    with (plant.scratch / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:  # full
            return True


def _jump(plant: Plant, attempt: Attempt, chance: random.Random) -> bool:
    attempt.clock.write_text(chance.choice(SKEWS))
    return True


FAULTS = {
    fault.kind: fault
    for fault in (
        Fault("kill -9 of an extractor", ("extract",), _kill_worker),
        Fault("kill -9 of a scorer", SCORING, _kill_worker),
        Fault("kill -9 of a raylet", ("extract", *SCORING, "report"), _kill_raylet),
        Fault("kill -9 of the head", STAGES, _kill_head, may_end=True, ends=True),
        Fault("kill -9 of the driver", STAGES, _kill_driver, may_end=True, ends=True),
        Fault("store answers 500 or 503 to every second request", STAGES, _store("errors"), (8, 20), may_end=True),
        Fault("store slow, up to 2 s a request", STAGES, _store("slow"), (8, 20)),
        Fault(
            "store cut off for 20 s",
            STAGES,
            _store("refused", "reset", "silent"),
            (CUT_SECONDS, CUT_SECONDS),
            may_end=True,
        ),
        Fault("store refuses the credentials", STAGES, _store("forbidden"), (60, 60), may_end=True),
        Fault(
            "disk full: scratch and spill volume",
            ("extract", *SCORING, "report"),
            _fill_disk,
            (20, 20),
            may_end=True,
            possible=lambda plant: plant.scratch is not None,
        ),
        Fault(
            "clock of the driver jumps by 10 minutes to a day",
            STAGES,
            _jump,
            may_end=True,
            possible=lambda plant: plant.clock_library is not None,
        ),
    )
}

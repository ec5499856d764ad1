"""Rounds of faults and what became of them: every job must end by itself, and with the undisturbed run's results."""

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.plant import JOBS, Attempt, Job, Plant

TOLERANCE = 1e-6
MOST_ATTEMPTS = 8
LIMIT_SECONDS = 600
"""A command that has not ended by then hangs."""


@dataclass
class Tally:
    """What is known of the faults of one kind.

    Attributes:
        injected: how many.
        survived: of them, after which the job was completed.
        resumed: of them, after which the command was run again, for this fault or the next one.
        longest: seconds from a fault to the complete run, the largest.
    """

    injected: int = 0
    survived: int = 0
    resumed: int = 0
    longest: float = 0.0


@dataclass
class Reference:
    """An undisturbed run."""

    scores: dict
    files: set[str]
    seconds: dict[str, float]


@dataclass
class Struck:
    """A fault that was injected: when, and in which attempt."""

    fault: Fault
    at: float
    attempt: int


@dataclass
class Campaign:
    """Rounds on a plant.

    Attributes:
        tallies: by kind of fault.
        problems: what must not be: one line each.
    """

    plant: Plant
    seed: int
    say: Callable[[str], None] = print
    tallies: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in FAULTS})
    problems: list[str] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)
    rounds: int = 0
    jobs: int = 0
    images: int = 0
    lost: int = 0
    differing: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        for job, out in (("archive", "base"), ("nightly", "base-night")):
            self.references[job] = self._undisturbed(JOBS[job], out)

    def possible(self) -> list[str]:
        """The kinds of faults that this machine allows."""
        return [kind for kind, fault in FAULTS.items() if fault.possible(self.plant)]

    def round(self, job_name: str, kinds: Sequence[str], repeats: int = 2) -> None:
        """Run a job to its end while faults of some kinds strike one after the other, and look at what is there.

        Faults that the job's end has come before strike another one, up to `repeats` times.
        """
        self.rounds += 1
        job, out = JOBS[job_name], f"round-{self.rounds:03d}"
        self.plant.new_out(job, out)
        waiting, struck, attempts = [FAULTS[kind] for kind in kinds], [], 0
        while True:
            attempts += 1
            attempt = self.plant.start(job, out)
            self._disturb(job_name, attempt, attempts, waiting, struck)
            done = self._end_of(attempt, [each.fault for each in struck if each.attempt == attempts], out)
            self.plant.mend()
            if done or attempts == MOST_ATTEMPTS:
                break
        ended = time.monotonic()
        problems = [] if done else [f"not complete after {attempts} attempts"]
        if done:
            problems += self._judge(job_name, out)
        self.problems += [f"round {self.rounds} ({job_name}: {', '.join(kinds)}): {problem}" for problem in problems]
        for each in struck:
            tally = self.tallies[each.fault.kind]
            tally.injected += 1
            tally.survived += done and not problems
            tally.resumed += attempts > each.attempt
            tally.longest = max(tally.longest, ended - each.at)
        told = "; ".join(f"{each.fault.kind} (attempt {each.attempt})" for each in struck) or "no fault in time"
        self.say(f"round {self.rounds}, {job_name}: {told}: {attempts} attempt(s){', '.join(['', *problems])}")
        self.plant.forget(out)
        self.jobs += 1
        if waiting and repeats and not self.problems:
            self.round(job_name, [fault.kind for fault in waiting], repeats - 1)

    def table(self) -> str:
        """Results as a Markdown table."""
        lines = [
            "| fault | injected | survived | then run again, for this or the next fault | longest, fault to scores |"
        ]
        lines += ["|---|---|---|---|---|"]
        for kind, tally in self.tallies.items():
            figures = f"{tally.injected} | {tally.survived} | {tally.resumed} | {tally.longest:.0f} s"
            lines.append(f"| {kind} | {figures} |" if tally.injected else f"| {kind} | not injected | | | |")
        every = self.tallies.values()
        total = [sum(getattr(tally, name) for tally in every) for name in ("injected", "survived", "resumed")]
        lines.append(f"| all | {' | '.join(map(str, total))} | {max(tally.longest for tally in every):.0f} s |")
        lines.append("")
        lines.append(
            f"{self.jobs} jobs, {self.images:,} images: {self.lost} images lost, {self.differing} scores that differ "
            f"by more than {TOLERANCE:g} from the undisturbed run; requests to the store that failed or waited: "
            f"{self.plant.store.hurt:,}."
        )
        return "\n".join(lines)

    def _undisturbed(self, job: Job, out: str) -> Reference:
        self.plant.new_out(job, out)
        attempt = self.plant.start(job, out)
        attempt.process.wait(LIMIT_SECONDS)
        assert attempt.process.returncode == 0, attempt.stderr
        run = self.plant.last_run(out)
        assert run["counts"]["failed"] == 0
        seconds = {name: stage["seconds"] for name, stage in run["stages"].items()}
        self.say(f"undisturbed {job.name}: {time.monotonic() - attempt.started:.0f} s, {seconds}")
        return Reference(self.plant.scores(out), self.plant.files(out), seconds)

    def _disturb(self, job: str, attempt: Attempt, number: int, waiting: list[Fault], struck: list[Struck]) -> None:
        """Let faults strike while the command runs, until one of them ends it or none is left."""
        while waiting and not attempt.over:
            fault = waiting[0]
            stage = self.chance.choice(fault.stages)
            delay = self.chance.uniform(0, 0.8) * self.references[job].seconds[stage]  # the first run is the slowest
            if not attempt.wait_for(lambda stage=stage: attempt.has_begun(stage), LIMIT_SECONDS):
                return
            if attempt.wait_for(lambda: False, delay) or attempt.over:
                return
            if not fault.strike(self.plant, attempt, self.chance):
                continue
            waiting.pop(0)
            struck.append(Struck(fault, time.monotonic(), number))
            if fault.ends:
                return
            if fault.lasts[1]:
                attempt.wait_for(lambda: False, self.chance.uniform(*fault.lasts))
                self.plant.mend()

    def _end_of(self, attempt: Attempt, faults: Sequence[Fault], out: str) -> bool:
        """Wait for the end of a command and look at it; whether the job is complete."""
        try:
            code = attempt.process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        where = f"{attempt.folder.name}, {', '.join(fault.kind for fault in faults) or 'no fault'}"
        if code is None:
            self.problems.append(f"{where}: hangs")
            attempt.process.kill()
            attempt.process.wait()
        self.problems += [f"{where}: {path} is visible and not whole" for path in self.plant.unreadable(out)]
        sudden = any(fault.ends for fault in faults)
        if code == 0 or sudden:
            return code == 0
        last = attempt.stderr.strip().splitlines()[-1:]
        if "Traceback" in attempt.stderr or not last or not last[0].startswith("Error: "):
            self.problems.append(f"{where}: ended with code {code}, and not with one sentence")
        if not any(fault.may_end for fault in faults):
            self.problems.append(f"{where}: ended with code {code}: {' '.join(last)}")
        self.say(f"  {where}: {' '.join(last)}")
        return False

    def _judge(self, job: str, out: str) -> list[str]:
        """Compare what a round left with the undisturbed run."""
        problems, reference = [], self.references[job]
        scores = self.plant.scores(out)
        self.images += len(reference.scores)
        lost = reference.scores.keys() - scores.keys()
        self.lost += len(lost)
        differing = [name for name in scores.keys() - lost if not _equal(scores[name], reference.scores.get(name))]
        self.differing += len(differing)
        if lost or differing:
            problems.append(f"{len(lost)} images lost, {len(differing)} scores differ")
        if self.plant.last_run(out)["counts"]["failed"]:
            problems.append("images count as broken")
        self.plant.collect_garbage(out)
        files = self.plant.files(out)
        if files != reference.files:
            problems.append(
                f"orphans {sorted(files - reference.files)[:5]}, gone {sorted(reference.files - files)[:5]}"
            )
        return problems


def _equal(row: dict, expected: dict | None) -> bool:
    names = ("score_raw", "score", "patch_map")
    return expected is not None and all(
        np.allclose(row[name], expected[name], rtol=0, atol=TOLERANCE) for name in names
    )

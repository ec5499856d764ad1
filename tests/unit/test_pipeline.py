"""A run is computed by one command at a time, and what it says of itself is true however it ends."""

from types import SimpleNamespace

import pytest

from musc_ray import pipeline
from musc_ray.errors import MuscRayError
from musc_ray.pipeline import score_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.storage.failure import Failure
from musc_ray.storage.filesystem import write_bytes, write_json
from musc_ray.storage.lease import holder, lease
from musc_ray.storage.listing import exists, names_in
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths
from tests.helpers.manifests import run_record

RUN = "run-a"


class Job:
    """A run whose stages are replaced by `work`."""

    def __init__(self, out: str) -> None:
        self.paths = OutPaths.at(out).run(RUN)
        self.fs = self.paths.fs
        self.computed = 0
        self.work = lambda: None

    def start(self, **settings: object) -> bool:
        """Score the archive; returns whether the run was computed, rather than reused."""
        context = SimpleNamespace(
            settings=load_settings(None, {"source": "photos", "out": "results", **settings}),
            run_id=RUN,
            run_paths=self.paths,
            out_paths=self.paths.out,
        )
        return score_archive(context, None, {}, Progress(quiet=True))

    def compute(self) -> RunManifest:
        self.computed += 1
        self.work()
        return RunManifest.model_validate(run_record(RUN))


@pytest.fixture(params=["file", "memory"])
def job(request, tmp_path, monkeypatch) -> Job:
    job = Job(str(tmp_path) if request.param == "file" else f"memory://pipeline{tmp_path}")
    replaced = {
        "_check_before_work": lambda context: None,
        "_begin": lambda context, progress: pipeline._clear(job.paths) if context.settings.overwrite else None,
        "_compute": lambda *_: job.compute(),
        "_clean_up": lambda context: None,
        "_reuse": lambda context, complete: False,
        "publish_complete": lambda *_: None,
        "read_result": lambda context, run, computed: computed,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(pipeline, name, function)
    return job


def test_a_run_holds_its_lease_while_it_works_and_no_longer(job):
    held = []
    job.work = lambda: held.append(holder(job.fs, job.paths.lease))
    assert job.start()
    assert held[0].what == "Run run-a"
    assert names_in(job.fs, job.paths.folder) == [job.paths.run_json]
    assert not job.start()
    assert job.computed == 1


def test_a_second_command_is_refused_and_told_who_is_at_work(job):
    def second() -> None:
        with pytest.raises(
            MuscRayError,
            match=r"^Run run-a has been at work in .* since .* UTC \(process \d+ on .*\): `musc-ray status results` ",
        ):
            job.start()

    job.work = second
    assert job.start()
    assert job.computed == 1
    assert Failure.read(job.paths) is None


def test_a_run_that_another_command_completes_meanwhile_is_reused(job, monkeypatch):
    def complete_first(context) -> None:
        write_json(job.fs, job.paths.run_json, run_record(RUN))

    monkeypatch.setattr(pipeline, "_check_before_work", complete_first)
    assert not job.start()
    assert job.computed == 0
    assert names_in(job.fs, job.paths.folder) == [job.paths.run_json]


def test_overwriting_clears_the_folder_of_the_run_but_for_its_lease(job):
    assert job.start()
    write_bytes(job.fs, f"{job.paths.scores}/part-0.parquet", b"old")
    job.work = lambda: held.append((holder(job.fs, job.paths.lease), names_in(job.fs, job.paths.folder)))
    held = []
    assert job.start(overwrite=True)
    ((lease_holder, names),) = held
    assert lease_holder is not None
    assert names == [job.paths.lease]


def test_a_failure_is_written_down_and_the_lease_is_free(job):
    def fail() -> None:
        raise MuscRayError("There is no room.")

    job.work = fail
    with pytest.raises(MuscRayError, match="There is no room"):
        job.start()
    assert Failure.read(job.paths).message == "There is no room."
    assert not exists(job.fs, job.paths.lease)


def test_a_stop_is_no_failure_and_the_lease_is_free(job):
    def stop() -> None:
        raise KeyboardInterrupt

    job.work = stop
    with pytest.raises(KeyboardInterrupt):
        job.start()
    assert Failure.read(job.paths) is None
    assert not exists(job.fs, job.paths.lease)
    job.work = lambda: None
    assert job.start()


def test_runs_do_not_wait_for_each_other(job):
    other = job.paths.out.run("run-b")
    with lease(other.fs, other.lease, "Run run-b"):
        assert job.start()

"""What an OUT holds that no run needs any more: features, shards, intermediate results, runs that were given up."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from musc_ray.errors import MuscRayError
from musc_ray.storage.bases import unused_bases
from musc_ray.storage.file_info import file_time
from musc_ray.storage.filesystem import PARTIAL, WRITE_CHECK, is_local, read_json, remove_tree
from musc_ray.storage.lease import Holder, check_free, holder, lease
from musc_ray.storage.listing import Info, describe, exists, files_below, list_folder, names_in
from musc_ray.storage.manifest import RunManifest, StartedManifest
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import BrokenShardError, read_meta

AT_WORK_MINUTES = 15
"""A run that wrote progress within this time counts as running."""


@dataclass(frozen=True)
class Garbage:
    """A folder or file that nothing needs, why, and its bytes."""

    path: str
    why: str
    bytes: int


def collect_garbage(out: str, older_than_days: int, delete: bool, now: datetime | None = None) -> list[Garbage]:
    """Find what no run needs, and delete it if asked to.

    Complete runs are needed, and so are the others until they are too old. Of features those shards are needed that
    hold an image, in the version of its catalog, of a run that is needed; and those that are not old, since a run on
    them may be to come.

    Args:
        out: the OUT of runs.
        older_than_days: runs that are not complete, and features of no run, are given up when nothing was written of
            them for so long.
        delete: delete it; otherwise it is only listed.
        now: the present time.

    Raises:
        MuscRayError: no runs there; or a run or a nightly is at work, and something was to be deleted.
    """
    out_paths, now = OutPaths.at(out), now or datetime.now(UTC)
    out_paths.fs.invalidate_cache()
    if not exists(out_paths.fs, out_paths.runs):
        raise MuscRayError(f"There is no run in {out}: give the OUT of earlier runs.")
    with _leases(out_paths) if delete else nullcontext():
        runs = _runs(out_paths)
        unfinished = {run_id: written for run_id, (complete, written) in runs.items() if not complete}
        leases = {run_id: holder(out_paths.fs, out_paths.run(run_id).lease) for run_id in unfinished}
        at_work = {run_id: held for run_id, held in leases.items() if held is not None}
        if delete:
            _check_none_at_work(out, at_work, unfinished, now)
        oldest = now - timedelta(days=older_than_days)
        given_up = {run_id for run_id, at in unfinished.items() if at < oldest} - at_work.keys()
        found = [
            *(
                _garbage(out_paths, out_paths.run(run_id).folder, "run that was given up")
                for run_id in sorted(given_up)
            ),
            *_leftovers(out_paths, [run_id for run_id, (complete, _) in runs.items() if complete]),
            *_features(out_paths, [run_id for run_id in runs if run_id not in given_up], oldest),
            *(
                _garbage(out_paths, path, "file of a command that was killed")
                for path in _unfinished_files(out_paths, now)
            ),
        ]
        for garbage in found if delete else ():
            remove_tree(out_paths.fs, garbage.path)
    return found


def check_kept(out_paths: OutPaths, features_id: str, shards: Mapping[str, Collection[int]]) -> None:
    """Check that no shard was removed between listing a run's shards and writing down that it needs them.

    From then on `collect_garbage` sees the run; before, it could have taken the shards for garbage.

    Args:
        out_paths: where the features are.
        features_id: of the features.
        shards: numbers of the shards that were listed, by group.

    Raises:
        MuscRayError: garbage is being removed, or shards are gone.
    """
    check_free(out_paths.fs, out_paths.gc_lease)
    for name, numbers in shards.items():
        if not out_paths.written_shards(out_paths.features(features_id, name)).keys() >= set(numbers):
            raise MuscRayError(
                f"Features of group '{name}' were removed while the run began: run it again, it extracts them anew."
            )


def check_unread(out_paths: OutPaths, features_id: str) -> None:
    """Check that no run is at work whose features are about to be deleted.

    Raises:
        MuscRayError: a run with these features is at work.
    """
    for run_id in out_paths.run_ids():
        run_paths = out_paths.run(run_id)
        if holder(out_paths.fs, run_paths.lease) is not None:
            started = StartedManifest.read(run_paths)
            if started is None or started.features_id == features_id:
                check_free(out_paths.fs, run_paths.lease, advice="wait for its end before you use --overwrite")


def _check_none_at_work(
    out: str, at_work: Mapping[str, Holder], unfinished: Mapping[str, datetime], now: datetime
) -> None:
    """Refuse to delete beside a run that holds its lease, or that wrote just now, since it may be of an older version.

    Raises:
        MuscRayError: there is one.
    """
    for run_id, held in at_work.items():
        raise MuscRayError(f"Run {run_id} is running in {out} ({held.process}): wait until it ends.")
    for run_id, at in unfinished.items():
        if now - at < timedelta(minutes=AT_WORK_MINUTES):
            raise MuscRayError(f"Run {run_id} is running in {out}: wait until it ends, or 15 minutes if it crashed.")


@contextmanager
def _leases(out_paths: OutPaths) -> Iterator[None]:
    """No nightly at work, and no run may begin."""
    what = "Removing what is not needed"
    with lease(out_paths.fs, out_paths.night_lease, what), lease(out_paths.fs, out_paths.gc_lease, what):
        yield


def _unfinished_files(out_paths: OutPaths, now: datetime) -> Iterator[str]:
    """Files that a killed command was writing, or with which it tried whether it can write, and not just now."""
    list_files = files_below if is_local(out_paths.fs) else list_folder  # stores write partial files elsewhere
    for info in list_files(out_paths.fs, out_paths.root):
        name, written = PurePosixPath(info["name"]).name, file_time(info)
        unfinished = name.startswith(WRITE_CHECK) or (name.startswith(".") and name.endswith(PARTIAL))
        if unfinished and written is not None and now - written > timedelta(minutes=AT_WORK_MINUTES):
            yield str(info["name"])


def _runs(out_paths: OutPaths) -> dict[str, tuple[bool, datetime]]:
    """Of every run: whether it is complete, and when something was last written of how far it is."""
    found = {}
    for run_id in out_paths.run_ids():
        complete = exists(out_paths.fs, out_paths.run(run_id).run_json)
        progress = read_json(out_paths.fs, out_paths.run(run_id).progress_json) or {}
        started = StartedManifest.read(out_paths.run(run_id))
        updated_at = progress.get("updated_at")
        written = datetime.fromisoformat(updated_at) if updated_at else started and started.started_at
        if complete or written:
            found[run_id] = (complete, written or datetime.max.replace(tzinfo=UTC))
    return found


def _leftovers(out_paths: OutPaths, complete: list[str]) -> Iterator[Garbage]:
    for run_id in complete:
        if exists(out_paths.fs, out_paths.run(run_id).work):
            yield _garbage(out_paths, out_paths.run(run_id).work, "intermediate results of a complete run")
        lease_path = out_paths.run(run_id).lease
        if exists(out_paths.fs, lease_path) and holder(out_paths.fs, lease_path) is None:
            yield _garbage(out_paths, lease_path, "lease of a command that died")


def _features(out_paths: OutPaths, needed: list[str], oldest: datetime) -> Iterator[Garbage]:
    """Features and shards that no needed run refers to, written before a time."""
    images: dict[str, set[tuple[str, str]]] = {}
    for run_id in needed:
        paths = out_paths.run(run_id)
        run = RunManifest.read(paths) or StartedManifest.read(paths)
        if run is None:  # removed meanwhile
            continue
        table = read_table(out_paths.fs, paths.catalog, ["image_id", "version"])
        pairs = zip(table["image_id"].to_pylist(), table["version"].to_pylist(), strict=True)
        images.setdefault(run.features_id, set()).update(pairs)
    for folder in names_in(out_paths.fs, f"{out_paths.root}/features"):
        features_id = PurePosixPath(folder).name
        if features_id not in images:
            if _is_old(out_paths, folder, oldest):
                yield _garbage(out_paths, folder, "features of no run")
            continue
        for group in names_in(out_paths.fs, folder):
            for path in unused_bases(out_paths, group):
                if _is_old(out_paths, path, oldest):
                    yield _garbage(out_paths, path, "basis that no features have")
            for path in out_paths.written_shards(group).values():
                try:
                    held = {(image.image_id, image.version) for image in read_meta(out_paths.fs, path).images}
                    why = "shard of no run's images"
                except BrokenShardError:
                    held, why = set(), "broken shard"
                if held.isdisjoint(images[features_id]) and _is_old(out_paths, path, oldest):
                    yield _garbage(out_paths, path, why)


def _is_old(out_paths: OutPaths, path: str, oldest: datetime) -> bool:
    """Whether a file, or all below a folder, was written before a time."""
    times = (file_time(info) for info in _files(out_paths, path))
    return all(time is None or time < oldest for time in times)


def _garbage(out_paths: OutPaths, path: str, why: str) -> Garbage:
    return Garbage(path, why, sum(int(info.get("size") or 0) for info in _files(out_paths, path)))


def _files(out_paths: OutPaths, path: str) -> Iterator[Info]:
    """List a file, or all files below a folder."""
    found = describe(out_paths.fs, path)
    if found is not None and found["type"] == "file":
        yield found
    else:
        yield from files_below(out_paths.fs, path)

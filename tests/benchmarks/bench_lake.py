"""Publishing scores to Iceberg tables: seconds and peak memory, files that a query reads, and the way not taken.

    python tests/benchmarks/bench_lake.py [ROWS] [--rest]

A run of so many rows in 4 groups (1,000,000) without patch maps, on SQLite and local files, or on SeaweedFS's S3 and
REST catalog on this machine: first into an empty lake,
then a second run of the same images, so that all of the current rows are replaced, then a night of a hundredth. Each
step is a process of its own. For comparison the same score files are registered where they lie (pyiceberg's
`add_files`), which would share them with OUT: a new threshold, which rewrites them, would break the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from musc_ray.core.ranks import percentiles, ranks
from musc_ray.lake.catalog import open_catalog
from musc_ray.lake.publish import publish_runs
from musc_ray.lake.schema import by_day_and_group, iceberg_schema, scores_schema
from musc_ray.settings.lake import Lake
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.schemas import SCORES
from tests.helpers.manifests import run_record
from tests.helpers.seaweed import lake_server

GROUPS, ROWS_A_FILE = 4, 65_536
NIGHT = datetime(2026, 11, 23, 2, tzinfo=UTC)


def write_run(run_paths: RunPaths, rows: int, scored_at: datetime) -> None:
    """The scores of a run and its run.json; maps of one patch stand for those that are not published."""
    chance = np.random.default_rng(0)
    for group in range(GROUPS):
        count = rows // GROUPS
        uris = [f"s3://plant-archive/line-{group}/2026/11/{n % 28 + 1:02d}/part-{n:09d}.png" for n in range(count)]
        ids = np.array([f"{group:08x}{n * 2654435761 % 2**32:08x}{n:016x}" for n in range(count)])
        scores = chance.random(count, np.float32)
        rank, percentile = ranks(scores, ids), percentiles(scores)
        for part, start in enumerate(range(0, count, ROWS_A_FILE)):
            at = slice(start, min(start + ROWS_A_FILE, count))
            size = at.stop - start
            ones = np.ones(size, np.int16)
            maps = pa.ListArray.from_arrays(np.arange(size + 1, dtype=np.int32), pa.array(scores[at]))
            columns = [ids[at], uris[at], [f"line-{group}"] * size, [run_paths.run_id] * size, [scored_at] * size]
            columns += [scores[at], scores[at], rank[at], percentile[at], ones, ones, maps]
            path = run_paths.part(run_paths.scores, f"line-{group}", part)
            write_table(run_paths.fs, path, pa.table(columns, schema=SCORES))
    record = run_record(
        run_paths.run_id,
        features_id="0123456789abcdef",
        scored_at=scored_at.isoformat(),
        settings={"source": "s3://plant-archive"},
        counts={"images": rows, "scored": rows},
    )
    write_json(run_paths.fs, run_paths.run_json, record)


def publish(out: str, run_id: str, catalog: str, warehouse: str) -> None:
    """What a process of its own does: publish a run, and say how long it took and what memory it needed."""
    out_paths = OutPaths.at(out)
    before = peak_bytes()
    started = time.perf_counter()
    published = publish_runs(
        out_paths,
        Lake(table="plant.scores", catalog=catalog, warehouse=warehouse, maps=False),
        [complete_run(out_paths, run_id)],
    )
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    print(json.dumps({"published": published, "seconds": seconds, "gb": peak / 1e9, "before_gb": before / 1e9}))


def peak_bytes() -> int:
    """Largest resident memory of this process, not of the one that it was forked from, as getrusage has it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def add_files(out: str, run_id: str) -> None:
    """The way not taken: the files of OUT as the table's own."""
    out_paths = OutPaths.at(out)
    catalog = open_catalog(f"sqlite:///{out}/added/catalog.db")
    catalog.create_namespace("plant")
    schema = iceberg_schema(scores_schema(maps=True, thresholds=False))
    started = time.perf_counter()
    table = catalog.create_table("plant.scores", schema, partition_spec=by_day_and_group(schema))
    table.add_files([f"file://{path}" for path in out_paths.table_files(out_paths.run(run_id).scores)])
    print(json.dumps({"seconds": time.perf_counter() - started, "rows": table.scan().count()}))


def in_its_own_process(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("rows", nargs="?", type=int, default=1_000_000)
    arguments.add_argument("--rest", action="store_true")
    given = arguments.parse_args()
    from machine import describe_machine

    print(describe_machine())
    with tempfile.TemporaryDirectory() as out:
        (Path(out) / "weed").mkdir()
        with lake_server(Path(out) / "weed") if given.rest else nullcontext() as server:
            if server is None:
                place = (f"sqlite:///{out}/lake/catalog.db", Path(out, "lake").as_uri())
            else:
                os.environ.update(server.environment)
                place = (server.catalog, server.warehouse)
            measure(out, given.rows, place)


def measure(out: str, rows: int, place: tuple[str, str]) -> None:
    """Publish, publish again, ask; into the lake at a catalog and a warehouse."""
    out_paths = OutPaths.at(out)
    steps = (("run-1", rows, "into an empty lake"), ("run-2", rows, "the same images again"))
    for night, (run_id, count, what) in enumerate((*steps, ("run-3", rows // 100, "a night of a hundredth"))):
        write_run(out_paths.run(run_id), count, NIGHT + timedelta(days=night))
        found = in_its_own_process("publish", out, run_id, *place)
        assert found["published"] == [run_id]
        print(
            f"{count:,} rows, {what}: {found['seconds']:.1f} s, peak {found['gb']:.2f} GB "
            f"(of it {found['before_gb']:.2f} GB before the start)"
        )
    found = in_its_own_process("publish", out, "run-3", *place)
    assert found["published"] == []
    print(f"published again: nothing to do, {found['seconds']:.2f} s")
    for line in in_its_own_process("ask", *place):
        print(line)
    files = list(Path(out).glob("runs/run-1/scores/*.parquet"))
    added = in_its_own_process("add_files", out, "run-1")
    print(f"add_files of run-1's own {len(files)} files: {added['seconds']:.1f} s for {added['rows']:,} rows")


def ask(catalog: str, warehouse: str) -> None:
    """Tonight's worst 100 of a group, and the files that were read for them."""
    lines = []
    for name in ("plant.scores", "plant.scores_current"):
        table = open_catalog(catalog, warehouse).load_table(name)
        worst = "scored_at >= '2026-11-25T00:00:00+00:00' and group = 'line-1' and rank <= 100"
        started = time.perf_counter()
        read = len(table.scan(row_filter=worst).to_arrow())
        seconds = time.perf_counter() - started
        files = [len(list(table.scan(**given).plan_files())) for given in ({"row_filter": worst}, {})]
        lines.append(f"{name}: tonight's worst {read} of a group from {files[0]} of {files[1]} files, {seconds:.2f} s")
    print(json.dumps(lines))


if __name__ == "__main__":
    if sys.argv[1:2] in (["publish"], ["add_files"], ["ask"]):
        {"publish": publish, "add_files": add_files, "ask": ask}[sys.argv[1]](*sys.argv[2:])
    else:
        main()

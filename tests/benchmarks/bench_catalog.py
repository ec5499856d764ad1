"""Cataloguing a million keys: seconds and peak memory of listing, sharding and writing the catalog.

python tests/benchmarks/bench_catalog.py [KEYS] [--store]

The keys come from a table of URIs; with --store from the listing of a bucket, which is simulated: what is measured is
what musc_ray does with the answers of a store, not the store.
"""

import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.core.crops import InputShape
from musc_ray.features.sharding import assign_shards
from musc_ray.sources.catalog import catalog_images, to_table
from musc_ray.storage.parquet import write_table


def write_keys(path: Path, keys: int) -> None:
    """A table of URIs as an archive has them, written in batches."""
    schema = pa.schema([("uri", pa.string()), ("group", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, keys, 50_000):
            rows = range(start, min(start + 50_000, keys))
            uris = [f"s3://plant-archive/line-{n % 4}/2026/11/{n % 28 + 1:02d}/part-{n:09d}.png" for n in rows]
            writer.write_table(pa.table([uris, [f"line-{n % 4}" for n in rows]], schema=schema))


class Bucket(fsspec.AbstractFileSystem):
    """A bucket of keys, of which every 100th is a text file and every 1,000th has no extension."""

    protocol = "bucket"
    keys = 0

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": 0, "type": "directory"}

    def find(self, path: str, **_: object) -> dict[str, dict[str, object]]:
        return {str(info["name"]): info for info in map(self._object, range(self.keys))}

    def _object(self, n: int) -> dict[str, object]:
        suffix = "" if n % 1000 == 1 else ".txt" if n % 100 == 0 else ".png"
        name = f"plant-archive/line-{n % 4}/2026/11/{n % 28 + 1:02d}/part-{n:09d}{suffix}"
        return {"name": name, "type": "file", "size": 100_000 + n, "ETag": f'"{n:032x}"'}

    def _open(self, path: str, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(PNG)


PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452")


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--store"]
    keys = int(arguments[0]) if arguments else 1_000_000
    fsspec.register_implementation("bucket", Bucket)
    Bucket.keys = keys
    with tempfile.TemporaryDirectory() as folder:
        write_keys(Path(folder) / "keys.parquet", keys)
        source, group_by = (
            ("bucket://plant-archive", "{group}/**") if "--store" in sys.argv else (f"{folder}/keys.parquet", None)
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        groups = catalog_images(source, group_by)
        listed = time.perf_counter()
        shards = {name: assign_shards(images, {}, 64, InputShape((224, 224))) for name, images in groups.items()}
        assigned = time.perf_counter()
        table = to_table({name: group.all for name, group in shards.items()})
        write_table(fsspec.filesystem("file"), f"{folder}/catalog.parquet", table)
        written = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    from machine import describe_machine  # only now: it imports torch, which cataloguing does not need

    print(describe_machine())
    print(
        f"{len(table):,} keys in {len(groups)} groups and {sum(len(g.all) for g in shards.values()):,} shards: "
        f"{written - started:.1f} s (list {listed - started:.1f}, assign {assigned - listed:.1f}, write "
        f"{written - assigned:.1f}); peak memory {peak / 1e6:.2f} GB, of it {before / 1e6:.2f} GB before the start"
    )


if __name__ == "__main__":
    main()

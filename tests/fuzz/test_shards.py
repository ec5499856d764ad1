"""Feature shards with flipped bits, cut, or of another make: the numbers that were written, or BrokenShardError."""

import json
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.sources.catalog import to_table
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.feature_shards import existing_shards
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.garbage import collect_garbage
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import BrokenShardError, FeaturesMeta, ShardImage, read_class_tokens, read_layer, read_meta
from tests.fuzz.conftest import LONG, examples
from tests.fuzz.mutation import mutated
from tests.helpers.manifests import run_record

LOCAL = fsspec.filesystem("file")
IDS = [f"id{n}" for n in range(5)]
META = FeaturesMeta(
    (2, 3),
    (5, 11),
    4,
    3,
    (28, 42),
    "timm:x",
    "0" * 64,
    "f" * 16,
    images=[ShardImage(i, f"s3://b/{i}", "v") for i in IDS],
)


def values() -> tuple[np.ndarray, list[np.ndarray]]:
    chance = np.random.default_rng(0)
    layers = [chance.standard_normal((5, 6, 4)).astype(np.float16) for _ in META.layers]
    return chance.standard_normal((5, 3)).astype(np.float32), layers


def shard_bytes() -> bytes:
    memory = fsspec.filesystem("memory")
    write_shard(memory, "/fuzz/shard-00000.parquet", META, *values())
    return memory.cat_file("/fuzz/shard-00000.parquet")


SEED = shard_bytes()
CLASS_TOKENS, TOKENS = values()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shards") / "shard-00000.parquet"


def as_written(path: Path) -> bool:
    """Whether the shard is read as it was written; False if it is found to be broken. Nothing else may happen."""
    try:
        meta = read_meta(LOCAL, str(path))
        tokens = read_class_tokens(LOCAL, str(path), IDS)
        layers = [read_layer(LOCAL, str(path), layer, IDS) for layer in META.layers]
    except BrokenShardError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return False
    assert meta == META
    np.testing.assert_array_equal(tokens, CLASS_TOKENS)
    for layer, expected in zip(layers, TOKENS, strict=True):
        np.testing.assert_array_equal(layer, expected)
    return True


@examples(500)
@given(data=mutated((SEED,)))
def test_damaged_shards(data: bytes, path, no_hang, figures) -> None:
    figures["inputs fuzzed"] += 1
    path.write_bytes(data)
    with no_hang():
        as_written(path)


def test_every_flipped_bit_of_the_values_is_found(path, figures):
    """One bit of each byte (in the short form, of each fourth): what is not found has changed nothing that is read."""
    missed = []
    for place in range(0, len(SEED), 1 if LONG else 4):
        data = bytearray(SEED)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        figures["inputs fuzzed"] += 1
        if as_written(path):
            missed.append(place)
    columns = [*TOKENS, CLASS_TOKENS]
    spans = [(start, start + column.nbytes) for column in columns if (start := SEED.find(column[0].tobytes())) >= 0]
    assert len(spans) == 3
    assert len(missed) < len(SEED) / 2
    for start, _ in spans:
        row = columns[spans.index((start, _))][0].nbytes
        assert not [place for place in missed if start <= place < start + row]


def test_every_length_is_found(path, figures):
    for length in range(0, len(SEED), 1 if LONG else 7):
        path.write_bytes(SEED[:length])
        figures["inputs fuzzed"] += 1
        assert not as_written(path)


@examples(60)
@given(place=st.integers(0, 5 * 6 * 4 - 1), layer=st.integers(0, 1), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_stored_numbers_that_are_none_never_leave_the_shard(place, layer, value, path, figures):
    """With checksums that are right: written so, by whatever."""
    figures["inputs fuzzed"] += 1
    tokens, layers = values()
    layers[layer].reshape(-1)[place] = value
    write_shard(LOCAL, str(path), META, tokens, layers)
    image = place // 24
    with pytest.raises(BrokenShardError, match=f"image id{image} has NaN or infinite numbers"):
        read_layer(LOCAL, str(path), META.layers[layer], IDS)
    others = [i for i in IDS if i != f"id{image}"]
    assert np.isfinite(read_layer(LOCAL, str(path), META.layers[layer], others)).all()
    tokens[image, 0] = value
    write_shard(LOCAL, str(path), META, tokens, TOKENS)
    with pytest.raises(BrokenShardError, match=f"image id{image} has NaN or infinite numbers in class_token"):
        read_class_tokens(LOCAL, str(path), IDS)


def test_values_of_another_image_or_layer_are_found(path):
    """Rows that changed places have right pages, and right sums."""
    table = pq.read_table(pa.BufferReader(SEED))
    swapped = table["layer_05"].take([1, 0, 2, 3, 4])
    for name, column in {"layer_05": swapped, "layer_11": table["layer_05"]}.items():
        pq.write_table(table.set_column(table.column_names.index(name), name, column), path)
        with pytest.raises(BrokenShardError, match="checksum"):
            read_layer(LOCAL, str(path), int(name[-2:]), IDS)


def test_shards_without_checksums_are_read(path):
    """As they were before there were any."""
    table = pq.read_table(pa.BufferReader(SEED))
    content = json.loads(table.schema.metadata[b"musc_ray"])
    del content["checksums"]
    pq.write_table(table.replace_schema_metadata({b"musc_ray": json.dumps(content)}), path)
    assert as_written(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(grid="no"), lambda c: c.update(images=[[1]]), lambda c: c.pop("channels"),
        lambda c: c.update(unknown=1), lambda c: c.update(channels=2**40), lambda c: c.update(layers=[5, 99]),
        lambda c: c.update(images=c["images"][:3]), lambda c: c.update(checksums={"layer_05": [1]}),
    ],
)  # fmt: skip
def test_metadata_that_speak_of_something_else(change, path, figures):
    figures["inputs fuzzed"] += 1
    table = pq.read_table(pa.BufferReader(SEED))
    content = json.loads(table.schema.metadata[b"musc_ray"])
    change(content)
    text = json.dumps(content).encode()
    metadata = {b"musc_ray": text, b"musc_ray_crc32": str(zlib.crc32(text))}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert not as_written(path)


def test_broken_shards_count_as_not_there_and_as_garbage(tmp_path, caplog):
    out_paths = OutPaths.at(str(tmp_path))
    for number, data in enumerate((SEED, SEED[:500], b"", SEED)):
        target = Path(out_paths.shard(META.features_id, "all", number))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    assert list(existing_shards(out_paths, META.features_id, "all")) == [0, 3]
    assert caplog.text.count("is broken") == 2
    moved = Path(out_paths.shard("other", "all", 0))
    moved.parent.mkdir(parents=True)
    moved.write_bytes(SEED)
    assert existing_shards(out_paths, "other", "all") == {}  # features of another model
    write_table(
        LOCAL, out_paths.run("run").catalog, to_table({"all": {0: [CatalogImage("id0", "s3://b/id0", "all", "v")]}}, {})
    )
    write_json(LOCAL, out_paths.run("run").run_json, run_record("run", features_id=META.features_id))
    later = datetime.now(UTC) + timedelta(days=8)
    garbage = {(Path(each.path).name, each.why) for each in collect_garbage(str(tmp_path), 7, False, later)}
    assert garbage == {
        ("shard-00001.parquet", "broken shard"),
        ("shard-00002.parquet", "broken shard"),
        ("other", "features of no run"),
    }

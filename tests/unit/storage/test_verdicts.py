"""Verdicts beside the runs: history is kept, the latest counts, importing twice changes nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage.garbage import collect_garbage
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import VERDICTS
from musc_ray.storage.verdicts import Verdict, add_verdicts, latest_verdicts

NOON = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)
GOOD = Verdict("a", "file:///x/a.png", "cable", "good", "", "", NOON)


@pytest.fixture
def out_paths(tmp_path: Path) -> OutPaths:
    return OutPaths.at(str(tmp_path / "out"))


def files_of(out_paths: OutPaths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out_paths.root).glob("verdicts/*")}


def test_nothing_is_known_where_nothing_was_said(out_paths):
    assert latest_verdicts(out_paths) == {}
    assert add_verdicts(out_paths, []) == 0
    assert not files_of(out_paths)


def test_what_was_stored_is_read(out_paths):
    said = replace(GOOD, group="ünï/=", note='line one\n"two"; three', who="Zoë", verdict="unsure")
    assert add_verdicts(out_paths, [said]) == 1
    assert latest_verdicts(out_paths) == {"a": said}


def test_storing_twice_changes_nothing(out_paths):
    verdicts = [GOOD, replace(GOOD, image_id="b", verdict="defective")]
    assert add_verdicts(out_paths, verdicts) == 2
    before = files_of(out_paths)
    assert add_verdicts(out_paths, verdicts) == 0
    assert add_verdicts(out_paths, [*verdicts, GOOD][::-1]) == 0
    assert files_of(out_paths) == before


def test_a_longer_import_adds_only_what_is_new_and_history_stays(out_paths):
    add_verdicts(out_paths, [GOOD])
    before = files_of(out_paths)
    later = replace(GOOD, verdict="defective", when=NOON + timedelta(seconds=1))
    assert add_verdicts(out_paths, [GOOD, later]) == 1
    after = files_of(out_paths)
    assert len(after) == 2
    assert before.items() <= after.items()
    rows = [row for path in Path(out_paths.root).glob("verdicts/*") for row in pq.read_table(path).to_pylist()]
    assert sorted(row["verdict"] for row in rows) == ["defective", "good"]


@pytest.mark.parametrize("turned", [False, True])
def test_the_latest_counts_in_whichever_order_they_are_imported(out_paths, turned):
    later = replace(GOOD, verdict="unsure", when=NOON + timedelta(microseconds=1))
    for verdict in (later, GOOD) if turned else (GOOD, later):
        add_verdicts(out_paths, [verdict])
    assert latest_verdicts(out_paths) == {"a": later}


def test_of_the_same_time_the_last_import_counts(out_paths):
    words = ["good", "defective", "unsure", "good", "defective"]
    for number, word in enumerate(words):
        add_verdicts(out_paths, [replace(GOOD, verdict=word, note=str(number))])
        assert latest_verdicts(out_paths)["a"].note == str(number)


@pytest.mark.parametrize("turned", [False, True])
def test_of_the_same_time_in_one_import_the_last_row_counts(out_paths, turned):
    rows = [GOOD, replace(GOOD, verdict="defective")]
    rows = rows[::-1] if turned else rows
    assert add_verdicts(out_paths, rows) == 2
    assert latest_verdicts(out_paths) == {"a": rows[-1]}


def test_a_time_in_another_zone_is_the_same_time(out_paths):
    add_verdicts(out_paths, [GOOD])
    elsewhere = replace(GOOD, when=NOON.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert add_verdicts(out_paths, [elsewhere]) == 0


def test_the_columns_are_the_contract(out_paths):
    add_verdicts(out_paths, [GOOD])
    (path,) = Path(out_paths.root).glob("verdicts/verdicts-*.parquet")
    assert pq.read_schema(path).equals(VERDICTS)
    assert len(path.stem) == len("verdicts-") + 16


def test_a_word_of_another_version_is_named(out_paths):
    add_verdicts(out_paths, [GOOD])
    (path,) = Path(out_paths.root).glob("verdicts/*")
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, VERDICTS.field("verdict"), pa.array(["splendid"])), path)
    with pytest.raises(MuscRayError, match="'splendid': update musc-ray"):
        latest_verdicts(out_paths)


def test_a_broken_file_is_named(out_paths):
    add_verdicts(out_paths, [GOOD])
    (path,) = Path(out_paths.root).glob("verdicts/*")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MuscRayError, match=r"verdicts-\w+\.parquet is not a readable Parquet table"):
        latest_verdicts(out_paths)


def test_garbage_collection_leaves_verdicts(out_paths):
    add_verdicts(out_paths, [GOOD])
    (Path(out_paths.root) / "runs").mkdir()
    in_years = datetime.now(UTC) + timedelta(days=4000)
    assert collect_garbage(out_paths.root, older_than_days=1, delete=True, now=in_years) == []
    assert latest_verdicts(out_paths) == {"a": GOOD}

"""Verdicts find the images that runs of an OUT know; others are named; importing twice changes nothing."""

from pathlib import Path

import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import latest_verdicts
from musc_ray.verdicts.importing import import_verdicts
from tests.helpers.judged_runs import id_of, uri_of, write_scored

HEADER = "image_id,uri,group,verdict,note,who,when"
AT = "2026-03-05T12:00:00Z"
RAW = {"w": 1.0, "x": 1.5, "y": 2.0, "z": 3.0}


@pytest.fixture
def out_paths(tmp_path: Path) -> OutPaths:
    out_paths = OutPaths.at(str(tmp_path / "out"))
    write_scored(out_paths, "run-1", {"a": RAW}, catalog_only={"a": ["unreadable"], "b": ["moved"]})
    write_scored(out_paths, "run-2", {"c": {"moved": 1.0, "new": 2.0}}, hour=1)
    return out_paths


@pytest.fixture
def load(out_paths, tmp_path):
    def load(*rows: str, who: str = ""):
        path = tmp_path / "verdicts.csv"
        path.write_text("\n".join([HEADER, *rows]), newline="")
        return import_verdicts(out_paths, str(path), who)

    return load


def words(out_paths):
    return {image_id: verdict.verdict for image_id, verdict in latest_verdicts(out_paths).items()}


def test_an_id_or_a_uri_is_enough_and_the_rest_is_what_the_latest_run_says(out_paths, load):
    found = load(
        f"{id_of('w')},,wrong,good,,,{AT}",
        f",{uri_of('x')},,defective,why,Bo,{AT}",
        f"{id_of('moved')},{uri_of('moved')},,good,,,{AT}",
        f"{id_of('unreadable')},,,unsure,,,{AT}",
    )
    assert (found.rows, found.stored, found.unknown) == (4, 4, ())
    stored = latest_verdicts(out_paths)
    groups = {"w": "a", "x": "a", "moved": "c", "unreadable": "a"}
    for name, group in groups.items():
        verdict = stored[id_of(name)]
        assert (verdict.image_id, verdict.uri, verdict.group) == (id_of(name), uri_of(name), group)
    assert (stored[id_of("x")].note, stored[id_of("x")].who) == ("why", "Bo")


def test_who_fills_what_is_empty_alone(out_paths, load):
    load(f"{id_of('w')},,,good,,,{AT}", f"{id_of('x')},,,good,,Bo,{AT}", who="Ada")
    assert {verdict.who for verdict in latest_verdicts(out_paths).values()} == {"Ada", "Bo"}


def test_importing_twice_changes_nothing(out_paths, load):
    rows = [f"{id_of('w')},,,good,,,{AT}", f",{uri_of('x')},,defective,,,{AT}"]
    load(*rows)
    before = {path: path.read_bytes() for path in Path(out_paths.root).rglob("*.parquet")}
    assert load(*rows).stored == 0
    assert {path: path.read_bytes() for path in Path(out_paths.root).rglob("*.parquet")} == before


@pytest.mark.parametrize("turned", [False, True])
def test_of_an_images_rows_the_latest_counts(out_paths, load, turned):
    rows = [f"{id_of('w')},,,good,,,{AT}", f",{uri_of('w')},,unsure,,,2026-03-05T12:00:01Z"]
    assert load(*(rows[::-1] if turned else rows)).stored == 2
    assert words(out_paths) == {id_of("w"): "unsure"}


def test_unknown_images_are_named_and_the_others_stored(out_paths, load):
    found = load(
        f"nowhere,,,good,,,{AT}",
        f",s3://b/none.png,,good,,,{AT}",
        f",s3://b/none.png,,good,,,{AT}",
        f"{id_of('w')},,,good,,,{AT}",
    )
    assert found.unknown == ("nowhere", "s3://b/none.png")
    assert words(out_paths) == {id_of("w"): "good"}


def test_an_unknown_id_is_found_by_its_uri(out_paths, load):
    load(f"old,{uri_of('w')},,good,,,{AT}")
    assert words(out_paths) == {id_of("w"): "good"}


def test_an_id_and_a_uri_of_two_images_are_refused(out_paths, load):
    with pytest.raises(MuscRayError, match=r"line 3: image_id .* and uri .*x.png are two images"):
        load(f"{id_of('w')},,,good,,,{AT}", f"{id_of('w')},{uri_of('x')},,good,,,{AT}")
    assert words(out_paths) == {}


def test_an_id_whose_uri_the_report_shows_otherwise_is_found(out_paths, load):
    load(f"{id_of('w')},file:///archive/\\x00w.png,,good,,,{AT}")
    assert words(out_paths) == {id_of("w"): "good"}


def test_a_file_of_another_out_is_refused(out_paths, load):
    with pytest.raises(MuscRayError, match=r"knows an image of .*: its 5 rows name 0, 1, 2 and 2 more; give the OUT"):
        load(*(f"{number},,,good,,,{AT}" for number in range(5)))
    assert words(out_paths) == {}


def test_an_out_without_runs_is_refused(tmp_path):
    path = tmp_path / "verdicts.csv"
    path.write_text(f"{HEADER}\na,,,good,,,{AT}")
    with pytest.raises(MuscRayError, match="There is no complete run in"):
        import_verdicts(OutPaths.at(str(tmp_path / "none")), str(path))


def test_an_image_that_has_scores_but_stands_in_no_catalog_is_known(out_paths, load):
    Path(out_paths.run("run-1").catalog).unlink()
    assert load(f"{id_of('w')},,,good,,,{AT}").stored == 1

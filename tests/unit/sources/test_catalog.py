"""Sources and groups: what is found where, and what is said when nothing is."""

import re

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.catalog import catalog_images, check_source
from musc_ray.storage.file_info import file_version


@pytest.fixture
def archive(tmp_path):
    for name in ("bolts/a.png", "bolts/sub/b.JPG", "nuts/c.tiff", "nuts/notes.txt", "nuts/.hidden"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(groups):
    return {group: sorted(image.uri.rsplit("/", 1)[1] for image in images) for group, images in groups.items()}


def test_a_folder_is_listed_whole_and_only_images_count(archive):
    assert names(catalog_images(str(archive))) == {"all": ["a.png", "b.JPG", "c.tiff"]}


def test_a_glob_selects(archive):
    assert names(catalog_images(f"{archive}/bolts/**/*.JPG")) == {"all": ["b.JPG"]}
    assert names(catalog_images(f"{archive}/*/*.p?g")) == {"all": ["a.png"]}


def test_a_single_file_and_brackets_in_folder_names(archive):
    odd = archive / "lot [7]"
    odd.mkdir()
    (odd / "d.png").write_bytes(b"d")
    assert names(catalog_images(str(odd))) == {"all": ["d.png"]}
    assert names(catalog_images(str(odd / "d.png"))) == {"all": ["d.png"]}


def test_groups_by_template_and_by_regular_expression(archive):
    assert names(catalog_images(str(archive), "{group}/**")) == {"bolts": ["a.png", "b.JPG"], "nuts": ["c.tiff"]}
    assert names(catalog_images(str(archive), "{group}/*.*")) == {"bolts": ["a.png"], "nuts": ["c.tiff"]}
    assert names(catalog_images(str(archive), r".*\.(?P<group>\w+)$")) == {
        "png": ["a.png"],
        "JPG": ["b.JPG"],
        "tiff": ["c.tiff"],
    }


@pytest.mark.parametrize("group_by", ["bolts/**", "(?P<group>", "{group}/{group}"])
def test_a_group_by_that_names_no_group_is_refused(archive, group_by):
    with pytest.raises(SettingsError, match=re.escape(group_by)):
        catalog_images(str(archive), group_by)


def test_a_group_by_that_fits_nothing_is_refused(archive):
    with pytest.raises(SettingsError, match="fits none of the 3 images"):
        catalog_images(str(archive), "x/{group}/y/z/**")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_uris(archive, kind):
    rows = {"uri": [f"{archive}/bolts/a.png", "nuts/c.tiff", f"file://{archive}/bolts/sub/b.JPG"], "group": list("xyx")}
    path = archive / f"table.{kind}"
    if kind == "csv":
        path.write_text("uri,group\n" + "".join(f"{u},{g}\n" for u, g in zip(*rows.values(), strict=True)))
    else:
        pq.write_table(pa.table(rows), path)
    groups = catalog_images(str(path))
    assert names(groups) == {"x": ["a.png", "b.JPG"], "y": ["c.tiff"]}
    by_folder = catalog_images(str(archive))["all"]
    assert {i.image_id for images in groups.values() for i in images} == {i.image_id for i in by_folder}


def test_a_table_without_the_column_says_so(archive):
    path = archive / "table.csv"
    path.write_text("path\na.png\n")
    with pytest.raises(MuscRayError, match="no column 'uri'"):
        catalog_images(str(path))


def test_an_image_listed_twice_counts_once(archive):
    path = archive / "table.csv"
    path.write_text(f"uri\n{archive}/bolts/a.png\nbolts/a.png\n")
    assert len(catalog_images(str(path))["all"]) == 1


@pytest.mark.parametrize("source", ["nowhere", "nowhere.csv", "nowhere/*.png", "empty"])
def test_nothing_there_is_one_sentence_that_names_the_source(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MuscRayError, match=re.escape(source)) as error:
        catalog_images(str(tmp_path / source))
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_is_one_sentence():
    with pytest.raises(MuscRayError, match="nosuch"):
        catalog_images("nosuch://bucket/images")


def test_images_are_in_the_order_of_their_hashed_ids(archive):
    ids = [image.image_id for image in catalog_images(str(archive))["all"]]
    assert ids == sorted(ids)


def test_the_version_is_the_etag_or_size_and_time():
    assert file_version({"ETag": '"abc"', "size": 3}) == "abc"
    assert file_version({"size": 3, "mtime": 7.5}) == "3-7.5"


@pytest.mark.parametrize("place", ["", "/bolts", "/bolts/a.png", "/*/*.png", "/nuts?filter=true", "/images.csv"])
def test_a_quick_look_passes_what_a_listing_decides(archive, place):
    (archive / "images.csv").write_text("uri\n")
    check_source(f"{archive}{place}")


@pytest.mark.parametrize("place", ["/no", "/no/*.png", "/no.csv", "/no?filter=true", "/no.parquet"])
def test_a_quick_look_says_that_there_is_nothing(archive, place):
    with pytest.raises(MuscRayError, match=re.escape(f"There is nothing at {archive}{place}")):
        check_source(f"{archive}{place}")


def test_a_quick_look_finds_files_in_folders_and_links_and_lists_none(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("musc_ray.storage.listing.list_folder", None)
    monkeypatch.setattr("musc_ray.sources.walk.list_folder", None)
    folders = tmp_path / "empty" / "a" / "b"
    folders.mkdir(parents=True)
    with pytest.raises(MuscRayError, match=f"No images found in {tmp_path}/empty"):
        check_source(str(tmp_path / "empty"))
    (folders / "link").symlink_to(archive / "bolts")
    check_source(str(tmp_path / "empty"))


def test_a_quick_look_checks_group_by_and_column_too(archive):
    with pytest.raises(SettingsError, match="not a valid regular expression"):
        check_source(str(archive), "(")
    with pytest.raises(SettingsError, match="column"):
        check_source(str(archive), None, "uri=a,uri=b")


@pytest.mark.parametrize("place", ["memory://looks/nothing", "memory://looks/nothing/*.png"])
def test_a_quick_look_at_a_store(place):
    fsspec.filesystem("memory").pipe_file("/looks/photos/a.png", b"a")
    check_source("memory://looks/photos")
    check_source("memory://looks/photos/*.png")
    with pytest.raises(MuscRayError, match=re.escape(f"There is nothing at {place}")):
        check_source(place)

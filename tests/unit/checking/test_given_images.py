"""The group of an image that is to be checked, from its path."""

from types import SimpleNamespace

import pytest

from musc_ray.checking.given_images import group_of, list_given
from musc_ray.errors import MuscRayError
from musc_ray.sources.images import DEFAULT_GROUP, ListedImage


def runs_of(groups: list[str], group_by: str | None, source: str | None = "/data/photos") -> dict:
    run = SimpleNamespace(settings=SimpleNamespace(group_by=group_by, source=source, column=None), scored_at=0)
    return dict.fromkeys(groups, run)


def found(uri: str, runs: dict, relative: str | None = None, group: str = DEFAULT_GROUP) -> str:
    image = ListedImage(uri, relative or uri.rpartition("/")[2], group, "")
    return group_of(image, runs, next(iter(runs.values())))


TWO = ["a", "b"]


@pytest.mark.parametrize(
    ("uri", "group_by", "source", "group"),
    [
        ("file:///data/photos/b/x.png", "{group}/**", "/data/photos", "b"),
        ("file:///data/photos/b/x.png", "{group}/**", "/data/photos/*/*.png", "b"),
        ("s3://bucket/photos/day/a/x.png", "*/{group}/*", "s3://bucket/photos", "a"),
        ("file:///a/inbox/b/x.png", "*/{group}/*", "/data/photos", "b"),
        ("file:///inbox/b/x.png", "{group}/**", "s3://bucket/photos", "b"),
        ("file:///inbox/a-17.png", r"(?P<group>\w)-\d+\.png", "/data/photos", "a"),
        ("file:///data/photos2/a/x.png", "{group}/*", "/data/photos", "a"),
    ],
)
def test_the_path_names_the_group(uri, group_by, source, group):
    assert found(uri, runs_of(TWO, group_by, source)) == group


@pytest.mark.parametrize(
    ("uri", "group_by", "message"),
    [
        ("file:///data/photos/c/x.png", "{group}/**", "No run has scored its group 'c': give --group; the groups"),
        ("file:///data/photos/x.png", "{group}/*", "No run has scored its group: give --group"),
        ("file:///a/b/x.png", "{group}/**", "Its path names several groups: give --group; the groups there are 'a', "),
        ("file:///inbox/x.png", "{group}/**", "Its path names no group that a run has scored: give --group"),
        (
            "file:///a/x.png",
            None,
            "Nothing says which group it belongs to: give --group; the groups there are 'a', 'b'",
        ),
    ],
)
def test_a_path_that_does_not_say(uri, group_by, message):
    with pytest.raises(MuscRayError, match=message):
        found(uri, runs_of(TWO, group_by))


def test_the_only_group_and_those_of_tables():
    assert found("file:///inbox/x.png", runs_of(["all"], None)) == "all"
    assert found("file:///inbox/x.png", runs_of(["a"], "{group}/**")) == "a"
    assert found("file:///inbox/x.png", runs_of(TWO, None), group="b") == "b"


def test_listed_images_have_the_ids_of_a_run(tmp_path):
    for name in ("b/1.png", "b/2.png", "c/3.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    runs = runs_of(TWO, "{group}/*")
    listed = list_given([str(tmp_path), str(tmp_path / "b" / "1.png"), str(tmp_path / "none")], runs, None)
    assert {group: len(images) for group, images in listed.groups.items()} == {"b": 2}
    assert [failed.uri.rpartition("/")[2] for failed in listed.failed] == ["3.png", "none"]
    assert listed.skipped == 1
    only_text = list_given([str(tmp_path / "notes.txt")], runs, "a")
    assert only_text.groups == {}
    assert len(only_text.failed) == 1

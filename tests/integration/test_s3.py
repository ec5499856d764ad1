"""The whole job on a real S3 server: the same scores as locally, no secret anywhere, readable errors."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import s3fs
from click.testing import Result

from musc_ray.errors import MuscRayError
from musc_ray.sources.catalog import list_images
from musc_ray.sources.reading import read_image
from musc_ray.storage import lease as lease_module
from musc_ray.storage.filesystem import write_text
from musc_ray.storage.lease import lease
from tests.helpers.door import FILES
from tests.helpers.pictures import write_pictures
from tests.helpers.seaweed import S3Server

OPTIONS = [
    "--backbone",
    "timm:vit_tiny_patch16_224",
    "--image-size",
    "64",
    "--precision",
    "float32",
    "--model-precision",
    "float32",
]
OPTIONS += ["--shard-size", "64", "--set", "workers=1"]


@pytest.fixture(scope="module")
def server(s3) -> S3Server:
    return s3


def musc_ray(server: S3Server, *arguments: object, **changed: str) -> subprocess.CompletedProcess:
    """The command with the server's credentials in its environment, and a Ray of its own that inherits them."""
    command = [sys.executable, "-m", "musc_ray.cli", *map(str, arguments)]
    environment = {**os.environ, **server.environment, **changed}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture
def as_user(server, monkeypatch, invoke):
    """The command in this process with the server's credentials, or others; its Ray workers do not have them."""

    def run(*arguments: object, **changed: str) -> Result:
        for name, value in {**server.environment, **changed}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        return invoke(*arguments)

    yield run
    s3fs.S3FileSystem.clear_instance_cache()


def failure(result: Result) -> str:
    """The one sentence of a failed command."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    return last


def scores(dataset: ds.Dataset) -> dict[str, tuple]:
    rows = dataset.to_table().to_pylist()
    return {r["uri"].rsplit("/", 1)[1]: (r["score"], r["score_raw"], r["rank"], r["patch_map"]) for r in rows}


@pytest.mark.slow
def test_the_whole_job_on_s3_gives_the_local_scores(server, tiny_weights, tmp_path, shared_ray, as_user):
    write_pictures(tmp_path / "images", 10)
    weights = tiny_weights
    local = as_user("run", tmp_path / "images", tmp_path / "out", "--weights", weights, *OPTIONS)
    assert local.exit_code == 0, local.stderr

    fs = server.filesystem()
    fs.mkdir("plant")
    fs.put(str(tmp_path / "images"), "plant/", recursive=True)
    fs.put_file(str(weights), "plant/models/w.safetensors")
    command = ["run", "s3://plant/images", "s3://plant/out", "--weights", "s3://plant/models/w.safetensors", *OPTIONS]
    remote = musc_ray(server, *command)
    assert remote.returncode == 0, remote.stderr
    assert "s3://plant/out/runs/" in remote.stdout

    (run,) = fs.ls("plant/out/runs", detail=False)
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    on_s3 = scores(ds.dataset(f"{run}/scores", format="parquet", filesystem=arrow))
    locally = scores(ds.dataset(next((tmp_path / "out" / "runs").iterdir()) / "scores", format="parquet"))
    assert on_s3.keys() == locally.keys()
    for name, values in on_s3.items():
        for value, expected in zip(values, locally[name], strict=True):
            np.testing.assert_allclose(value, expected, atol=1e-6)

    before = {path: info["LastModified"] for path, info in fs.find("plant/out", detail=True).items()}
    again = as_user(*command)
    assert again.exit_code == 0
    assert "already complete" in again.stdout
    assert before == {path: info["LastModified"] for path, info in fs.find("plant/out", detail=True).items()}
    assert "complete" in as_user("status", "s3://plant/out").stdout

    for path in fs.find("plant/out"):
        content = fs.cat_file(path)
        assert server.secret_key.encode() not in content, path
        assert server.access_key.encode() not in content, path
    for result in (local, remote, again):
        assert server.secret_key not in result.stdout + result.stderr
        assert server.access_key not in result.stdout + result.stderr


@pytest.mark.slow
def test_what_cannot_be_reached_is_one_sentence_without_secrets(as_user, tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("musc_ray.storage.retry.FIRST_PAUSE_SECONDS", 0.01)
    weights = tiny_weights
    write_pictures(tmp_path / "images", 3)
    read = ["run", "s3://nowhere/images", tmp_path / "out", "--weights", weights, *OPTIONS]
    write = ["run", tmp_path / "images", "s3://plant/out", "--weights", weights, *OPTIONS]
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-right-one"}
    assert "s3://nowhere/images" in failure(as_user(*read))
    for sentence in (failure(as_user(*read, **wrong)), failure(as_user(*write, **wrong))):
        assert "s3://nowhere/images" in sentence or "plant/out" in sentence
        assert "not-the-right-one" not in sentence
    missing = ["run", tmp_path / "images", tmp_path / "out", "--weights", "s3://nowhere/w.safetensors", *OPTIONS]
    assert "s3://nowhere/w.safetensors" in failure(as_user(*missing))
    assert "s3://nowhere/images" in failure(as_user(*read, AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.html", "text/html"),
        ("data.js", "text/javascript"),
        ("site.css", "text/css"),
        ("sheet.jpg", "image/jpeg"),
    ],
)
def test_browsers_are_told_what_a_file_of_the_report_is(server, name, kind):
    """A page of another content type would be downloaded and not shown."""
    fs = server.filesystem()
    write_text(fs, f"plant/report/{name}", "content")
    assert fs.info(f"plant/report/{name}")["ContentType"] == kind


def test_a_failed_upload_leaves_nothing_visible(server, monkeypatch, tmp_path):
    from musc_ray.storage.filesystem import atomic_file

    fs = server.filesystem()
    fs.mkdir("uploads")

    def broken() -> None:
        with atomic_file(fs, "uploads/shard.parquet") as partial:
            Path(partial).write_bytes(b"x" * 20_000_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert fs.ls("uploads") == []
    with atomic_file(fs, "uploads/shard.parquet") as partial:
        Path(partial).write_bytes(b"x" * 120_000_000)  # several parts
    assert fs.size("uploads/shard.parquet") == 120_000_000


def test_a_lease_on_s3_is_held_by_one(server, monkeypatch):
    monkeypatch.setattr(lease_module, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "WATCH_SECONDS", 0.5)
    fs = server.filesystem()
    fs.mkdir("leases")
    path = "leases/out/nightly-lease.json"
    with lease(fs, path, "A nightly run"):
        with pytest.raises(MuscRayError, match="A nightly run has been at work"):
            lease(server.filesystem(), path, "Another").__enter__()
        held = {**json.loads(fs.cat_file(path)), "owner": "a dead one", "renewed": 0, "machine": "elsewhere"}
        fs.pipe_file(path, json.dumps(held).encode())  # as one that died on another machine
        with lease(server.filesystem(), path, "Another"):
            assert json.loads(server.filesystem().cat_file(path))["what"] == "Another"
    assert not fs.exists(path)


@pytest.fixture
def store(server, monkeypatch):
    """The server as this process sees it with the server's credentials in its environment."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3fs.S3FileSystem()
    s3fs.S3FileSystem.clear_instance_cache()


def test_tables_in_a_bucket_name_what_is_beside_them(store):
    fs = store
    fs.mkdirs("tables", exist_ok=True)
    fs.pipe({f"tables/{name}": name.encode() for name in ("a.png", "lists/b.png", "lists/x/c.png")})
    content = "\ufeffuri;group\r\n./b.png;0\r\n../a.png;001\r\nx\\c.png;01\r\n../../d.png;x\r\n/e.png;x\r\n;x\r\n"
    fs.pipe_file("tables/lists/list.csv", content.encode())
    catalog = list_images("s3://tables/lists/list.csv")
    found = {group: [image.uri for image in images] for group, images in catalog.groups.items()}
    assert found == {
        "0": ["s3://tables/lists/b.png"],
        "001": ["s3://tables/a.png"],
        "01": ["s3://tables/lists/x/c.png"],
    }
    assert [read_image(uri) for (uri,) in found.values()] == [b"lists/b.png", b"a.png", b"lists/x/c.png"]
    assert [row.uri.rpartition("/")[2] for row in catalog.unreadable] == [f"list.csv#row={n}" for n in (3, 4, 5)]
    for group in ("001", "01"):
        file = io.BytesIO()
        pq.write_table(pa.table({"uri": ["../a.png"]}), file)
        fs.pipe_file(f"tables/lake/group={group}/part-0.parquet", file.getvalue())
    fs.pipe_file("tables/lake/_SUCCESS", b"")
    for source in ("s3://tables/lake", "s3://tables/lake?filter=true"):
        groups = list_images(source).groups
        assert {group: [image.uri for image in images] for group, images in groups.items()} == {
            "001": ["s3://tables/a.png"],
            "01": ["s3://tables/a.png"],
        }


def test_a_messy_bucket_loses_nothing(store):
    fs = store
    fs.mkdirs("messy", exist_ok=True)
    expected = {name: outcome for name, (_, outcome) in FILES.items()}
    for name, (content, _) in FILES.items():
        fs.pipe_file(f"messy/archive/{name}", content)
    fs.pipe_file("messy/archive-old/a.png", b"another archive")
    catalog = list_images("s3://messy/archive")
    found = {image.uri: "image" for images in catalog.groups.values() for image in images}
    found |= {entry.uri: entry.reason for entry in catalog.skipped}
    found |= {entry.uri: "error" for entry in catalog.unreadable}
    assert {uri.removeprefix("s3://messy/archive/"): outcome for uri, outcome in found.items()} == expected
    assert catalog.listed == len(expected)
    pictures = list_images("s3://messy/archive/*/a.jpg").groups["all"]
    assert [image.uri for image in pictures] == ["s3://messy/archive/ext/a.jpg"]

"""Finding weights: files, stores, the hub and its cache; and their hash, which is kept for large files."""

import hashlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError

from musc_ray.backbones import digests
from musc_ray.backbones.digests import sha256_of
from musc_ray.backbones.hub import download_weights
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import check_weights, fetch_weights
from musc_ray.errors import MuscRayError

DINOV2 = resolve_backbone("dinov2-vit-s-14")
CLIP = resolve_backbone("clip-vit-l-14-336")


def test_remote_weights_are_copied_once_per_version(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/w.safetensors", b"first")
    first = fetch_weights(DINOV2, "memory://bucket/w.safetensors", tmp_path)
    assert first.path.read_bytes() == b"first"
    assert fetch_weights(DINOV2, "memory://bucket/w.safetensors", tmp_path) == first
    memory.pipe_file("/bucket/w.safetensors", b"second!")
    assert fetch_weights(DINOV2, "memory://bucket/w.safetensors", tmp_path).path.read_bytes() == b"second!"
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("look", [fetch_weights, check_weights])
@pytest.mark.parametrize("where", ["nowhere.safetensors", "memory://nowhere/w.safetensors", "."])
def test_missing_weights_name_the_option(tmp_path, where, look):
    location = where if "://" in where else str(tmp_path / where)
    with pytest.raises(MuscRayError, match="--weights"):
        look(DINOV2, location)


@pytest.mark.parametrize("look", [fetch_weights, check_weights])
def test_a_name_without_a_tag_needs_a_file(look):
    with pytest.raises(MuscRayError, match="add a tag, or give a file with --weights PATH"):
        look(resolve_backbone("timm:vit_small_patch14_dinov2"), None)


def test_whether_weights_are_there_is_found_without_reading_or_downloading_them(tmp_path, monkeypatch):
    monkeypatch.setattr("musc_ray.backbones.weights.download_weights", None)
    monkeypatch.setattr("musc_ray.backbones.weights.sha256_of", None)
    (tmp_path / "w.safetensors").write_bytes(b"data")
    check_weights(DINOV2, str(tmp_path / "w.safetensors"))
    check_weights(DINOV2, None)


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)
    return tmp_path


def test_an_unreachable_hub_is_asked_twice_and_says_to_give_a_file(no_cache, monkeypatch):
    asked = []

    def refuse(url):
        asked.append(url)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(
        MuscRayError, match=r"'timm:\S+lvd142m' from the model hub \(no route to host\).*--weights PATH"
    ):
        fetch_weights(DINOV2, None)
    assert len(asked) == 2
    assert asked[0].endswith("/timm/vit_small_patch14_dinov2.lvd142m/resolve/main/model.safetensors")


def test_the_hub_is_asked_for_a_files_next_name(no_cache, monkeypatch):
    def download(repository, file):
        if file.endswith(".safetensors"):
            raise EntryNotFoundError("404")
        (no_cache / file).write_bytes(b"data")
        return str(no_cache / file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert download_weights(CLIP).name == "open_clip_pytorch_model.bin"


def test_what_the_hubs_cache_holds_is_taken_without_asking_the_hub(no_cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    folder = no_cache / "models--timm--vit_small_patch14_dinov2.lvd142m"
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    (folder / "snapshots" / "0123" / "model.safetensors").write_bytes(b"data")
    assert fetch_weights(DINOV2, None).sha256 == hashlib.sha256(b"data").hexdigest()


def test_a_failing_hub_writes_nothing_beside_the_error(tmp_path):
    code = (
        "from musc_ray.backbones.names import resolve_backbone\n"
        "from musc_ray.backbones.weights import fetch_weights\n"
        "from musc_ray.errors import MuscRayError\n"
        "from musc_ray.settings.credentials import log_to_stderr\n"
        "log_to_stderr()\n"
        "try:\n"
        "    fetch_weights(resolve_backbone('clip-vit-l-14-336'), None)\n"
        "except MuscRayError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "Connection refused" in done.stdout


def test_the_hubs_warnings_are_silent_only_during_a_download(no_cache, monkeypatch):
    client = logging.getLogger("huggingface_hub.utils._http")
    levels = []
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)

    def download(repository, file):
        levels.append(client.getEffectiveLevel())
        raise OSError("cut")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    before = client.getEffectiveLevel()
    with pytest.raises(MuscRayError, match="cut"):
        download_weights(DINOV2)
    assert (levels, client.getEffectiveLevel()) == ([logging.ERROR], before)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Hash even small files by the rule of large ones; list what is read whole."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "MIN_BYTES", 1)
    read = []
    hashed = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or hashed(file, kind))
    return read


def old_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, (time.time() - 1000,) * 2)
    return path


def test_the_hash_is_of_the_file(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"data" * 1000)
    weights = fetch_weights(DINOV2, str(tmp_path / "w.safetensors"))
    assert weights.sha256 == hashlib.sha256(b"data" * 1000).hexdigest()


def test_an_unchanged_file_is_hashed_once(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -1.0)
    path = old_file(tmp_path / "w.safetensors", b"first")
    assert [sha256_of(path) for _ in range(3)] == [hashlib.sha256(b"first").hexdigest()] * 3
    assert len(counted) == 1


def test_a_changed_file_is_hashed_again(tmp_path, counted, monkeypatch):
    """Of the same size and with the old time of modification, too: its time of change cannot be set."""
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -1.0)
    path = old_file(tmp_path / "w.safetensors", b"first")
    times = path.stat()
    assert sha256_of(path) == hashlib.sha256(b"first").hexdigest()
    time.sleep(0.02)
    path.write_bytes(b"again")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sha256_of(path) == hashlib.sha256(b"again").hexdigest()
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    other.replace(path)
    assert sha256_of(path) == hashlib.sha256(b"other").hexdigest()


def test_the_hash_of_a_file_that_just_changed_is_not_kept(tmp_path, counted):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"first")
    assert sha256_of(path) == sha256_of(path)
    assert len(counted) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"path": 1}'])
def test_a_broken_entry_is_replaced(tmp_path, counted, monkeypatch, content):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -1.0)
    path = old_file(tmp_path / "w.safetensors", b"first")
    sha256_of(path)
    (entry,) = (tmp_path / "cache").rglob("*.json")
    entry.write_bytes(content)
    assert [sha256_of(path), sha256_of(path)] == [hashlib.sha256(b"first").hexdigest()] * 2
    assert len(counted) == 2


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -1.0)
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = old_file(tmp_path / "w.safetensors", b"first")
    assert sha256_of(path) == sha256_of(path) == hashlib.sha256(b"first").hexdigest()

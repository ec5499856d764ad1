"""Weights from a model hub, a local path or an object URI; only tensors are ever loaded."""

import hashlib
import pickle
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch import Tensor

from musc_ray.backbones.names import BackboneName
from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.filesystem import atomic_file, is_local, open_filesystem

WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher")
PREFIXES = ("module.", "backbone.")


@dataclass(frozen=True)
class WeightsFile:
    """A local weights file and the SHA-256 of its bytes."""

    path: Path
    sha256: str


def fetch_weights(name: BackboneName, weights: str | None, cache_dir: Path | None = None) -> WeightsFile:
    """Fetch weights onto this machine.

    Args:
        name: what the hub is asked for when `weights` is None.
        weights: local path or URI, or None for the library's own download.
        cache_dir: folder of remote files' copies, by URI and version; a temporary folder by default.

    Raises:
        MuscRayError: the file does not exist or cannot be read, or the hub cannot be reached.
    """
    path = _download_from_hub(name) if weights is None else _local_file(weights, cache_dir)
    try:
        with path.open("rb") as file:
            return WeightsFile(path, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise MuscRayError(f"Cannot read the weights at {path}: {error.strerror}; check --weights.") from error


def _local_file(weights: str, cache_dir: Path | None) -> Path:
    """Return a path on this machine for a path or URI."""
    fs, location = open_filesystem(weights)
    try:
        info = fs.info(location)
        if info["type"] != "directory":
            return Path(location) if is_local(fs) else _cached_copy(fs, location, info, cache_dir)
    except FileNotFoundError as error:
        raise MuscRayError(f"There is no weights file at {weights}: check --weights.") from error
    except Exception as error:  # drivers of object stores raise errors of many libraries
        raise MuscRayError(f"Cannot read the weights at {weights}: {reason_of(error)}; check --weights.") from error
    raise MuscRayError(f"{weights} is a folder: --weights takes a safetensors or pth file.")


def _cached_copy(fs: fsspec.AbstractFileSystem, location: str, info: dict[str, Any], cache_dir: Path | None) -> Path:
    """Return a local copy of a remote file, made once per version."""
    # all that the store says of the file: stores name ETag and time differently, and retraining keeps the size
    version = f"{fs.unstrip_protocol(location)}|{sorted(info.items())!r}"
    folder = cache_dir or Path(tempfile.gettempdir()) / "musc-ray-weights"
    copy = folder / hashlib.sha256(version.encode()).hexdigest()[:24] / Path(location).name
    if not copy.exists():
        with atomic_file(fsspec.filesystem("file"), str(copy)) as partial:
            fs.get_file(location, str(partial))
    return copy


def _download_from_hub(name: BackboneName) -> Path:
    """Return the library's own pretrained weights, from its cache or its hub."""
    if name.tag is None:
        raise MuscRayError(
            f"'{name.canonical}' names no pretrained weights: add a tag, or give a file with --weights PATH."
        )
    try:
        path = _open_clip_download(name) if name.library == "open_clip" else _timm_download(name)
    except MuscRayError:
        raise
    except Exception as error:  # hub clients raise errors of many libraries
        raise MuscRayError(
            f"Cannot download the weights of '{name.canonical}' from the model hub ({type(error).__name__}): download "
            f"them elsewhere and give the file with --weights PATH."
        ) from error
    return Path(path)


def _open_clip_download(name: BackboneName) -> str:
    import open_clip

    config = open_clip.get_pretrained_cfg(name.model, name.tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name.model)) or "none"
        raise MuscRayError(f"open_clip has no weights '{name.tag}' for {name.model}; it has: {tags}.")
    return str(open_clip.download_pretrained(config))


def _timm_download(name: BackboneName) -> str:
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.models.get_pretrained_cfg(f"{name.model}.{name.tag}")
    if config is None or not config.hf_hub_id:
        raise MuscRayError(f"timm has no weights '{name.tag}' for {name.model}.")
    repository = config.hf_hub_id if not config.hf_hub_id.endswith("/") else config.hf_hub_id + name.canonical[5:]
    return hf_hub_download(repository, "model.safetensors")


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Load tensors by name from a safetensors or PyTorch file; common wrappers and prefixes are removed.

    Raises:
        MuscRayError: not a weights file, or one that holds more than tensors.
    """
    try:
        content = _read_tensors(path)
    except MuscRayError:
        raise
    except pickle.UnpicklingError as error:
        raise MuscRayError(
            f"{path} was refused, since it holds more than tensors: convert it to safetensors."
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds
        raise MuscRayError(
            f"{path} is not a readable weights file ({type(error).__name__}): give a safetensors or pth file."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    for prefix in PREFIXES:  # tensors without it belong to a training head (DINO, DINOv2)
        inner = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
        content = inner or content
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise MuscRayError(f"{path} holds no tensors: give a safetensors or pth file with a state dict.")
    return state


def _read_tensors(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    if _is_torchscript(path):  # may run code when it is loaded; OpenAI published CLIP in this form
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest not in published_digests():
            raise MuscRayError(
                f"{path} is a TorchScript archive, which holds code, and not one that OpenAI published: convert it to "
                f"safetensors."
            )
        return dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError("not a state dict")
    return content


def published_digests() -> set[str]:
    """Return the SHA-256 of the CLIP files that OpenAI published, which their addresses contain."""
    import open_clip

    names = [(model, tag) for model, tag in open_clip.list_pretrained() if tag == "openai"]
    return {open_clip.get_pretrained_cfg(*name)["url"].split("/")[-2] for name in names}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())

"""Read the tensors of a weights file; nothing else in it is ever loaded."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musc_ray.core.memory import is_out_of_memory
from musc_ray.errors import MuscRayError

WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher")
PREFIXES = ("module.", "backbone.")


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Load tensors by name from a safetensors or PyTorch file; common wrappers and prefixes are removed.

    Raises:
        MuscRayError: not a weights file, or one that holds more than tensors.
        MemoryError, RuntimeError: memory is too short.
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
        if is_out_of_memory(error):
            raise
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

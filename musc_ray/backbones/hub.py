"""Download a model's pretrained weights: from the hub's cache on this machine, else from the Hugging Face hub, once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musc_ray.backbones.known import KNOWN, OPEN_CLIP_FILES, TIMM_FILES, HubFile
from musc_ray.backbones.names import BackboneName
from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage.retry import Backoff, retry

FIRST_CONTACT = Backoff(attempts=2, first_seconds=0.5, max_seconds=0.5)
"""Attempts to reach the hub before a download; its client alone would make 7, and pause for 23 seconds."""


def check_downloadable(name: BackboneName) -> None:
    """Check that a name says which weights to download.

    Raises:
        MuscRayError: it has no tag.
    """
    if name.tag is None:
        raise MuscRayError(
            f"'{name.canonical}' names no pretrained weights: add a tag, or give a file with --weights PATH."
        )


def download_weights(name: BackboneName) -> Path:
    """Return a model's pretrained weights, from the hub's cache on this machine or from the hub.

    Raises:
        MuscRayError: the library has no such weights, or the hub cannot be reached.
    """
    check_downloadable(name)
    known = KNOWN.get(name.canonical)
    try:
        hub_file = _hub_file(name) if known is None else known.hub_file
        return _open_clip_download(name) if hub_file is None else _fetch(hub_file)
    except MuscRayError:
        raise
    except Exception as error:  # hub clients raise errors of many libraries
        raise MuscRayError(
            f"Cannot download the weights of '{name.canonical}' from the model hub ({reason_of(error)}): download "
            f"them elsewhere and give the file with --weights PATH."
        ) from error


def _fetch(wanted: HubFile) -> Path:
    """Return a file of the hub; what its cache on this machine holds is taken without asking the hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in wanted.files:
        cached = try_to_load_from_cache(wanted.repository, name)
        if isinstance(cached, str):
            return Path(cached)
    *others, last = wanted.files
    with _quiet_hub():
        for name in others:
            try:
                _check_reachable(wanted.repository, name)
                return Path(hf_hub_download(wanted.repository, name))
            except LocalEntryNotFoundError:  # the hub became unreachable
                raise
            except EntryNotFoundError:  # the next name, then
                continue
        _check_reachable(wanted.repository, last)
        return Path(hf_hub_download(wanted.repository, last))


def _check_reachable(repository: str, file: str) -> None:
    """Raise at once what keeps the hub from answering; what it answers is for the download to say."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        retry(
            lambda: get_hf_file_metadata(hf_hub_url(repository, file)),
            lambda error: not isinstance(error, HfHubHTTPError | OfflineModeIsEnabled),
            FIRST_CONTACT,
        )
    except HfHubHTTPError:
        return


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub client's warnings off the terminal: what fails in the end is one sentence of ours."""
    client = logging.getLogger("huggingface_hub")
    before = client.level
    client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        client.setLevel(before)


def _hub_file(name: BackboneName) -> HubFile | None:
    """Ask the library where the hub has a model's weights; None where open_clip has an address of its own.

    Raises:
        MuscRayError: it has no such weights.
    """
    if name.library == "open_clip":
        location = str(_open_clip_config(name).get("hf_hub") or "")
        repository, _, file = location.rpartition("/")
        safe = (f"{file.rpartition('.')[0]}.safetensors",) if file.endswith((".bin", ".pth")) else ()
        return HubFile(repository, (*safe, file) if file else OPEN_CLIP_FILES) if location else None
    import timm

    config = timm.models.get_pretrained_cfg(f"{name.model}.{name.tag}")
    if config is None or not config.hf_hub_id:
        raise MuscRayError(f"timm has no weights '{name.tag}' for {name.model}.")
    whole = config.hf_hub_id if not config.hf_hub_id.endswith("/") else f"{config.hf_hub_id}{name.model}.{name.tag}"
    return HubFile(whole, TIMM_FILES)


def _open_clip_download(name: BackboneName) -> Path:
    import open_clip

    return Path(open_clip.download_pretrained(_open_clip_config(name)))


def _open_clip_config(name: BackboneName) -> dict[str, object]:
    """Return what open_clip knows of pretrained weights.

    Raises:
        MuscRayError: nothing.
    """
    import open_clip

    config: dict[str, object] = open_clip.get_pretrained_cfg(name.model, name.tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name.model)) or "none"
        raise MuscRayError(f"open_clip has no weights '{name.tag}' for {name.model}; it has: {tags}.")
    return config

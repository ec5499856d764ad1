"""Classify an entry that is not named as an image: by its name, or else by the first bytes of its content."""

from musc_ray.sources.images import DEFAULT_GROUP, Skipped, Unreadable
from musc_ray.sources.names import skipped_suffix, unsupported_suffix
from musc_ray.sources.sniff import MESSAGES, content_kind


def judged_by_name(uri: str, relative: str) -> Skipped | Unreadable | None:
    """Return what an entry that is not named as an image or container is; None where its content must be asked."""
    skipped = skipped_suffix(relative)
    if skipped is not None:
        return Skipped(uri, *skipped)
    reason = unsupported_suffix(relative)
    return None if reason is None else Unreadable(uri, relative, DEFAULT_GROUP, "UnsupportedFormat", reason)


def judged_by_head(uri: str, relative: str, head: bytes) -> Skipped | Unreadable | None:
    """Return what an entry of unknown name is by its first bytes; None for an image."""
    kind = content_kind(head)
    if kind == "image":
        return None
    if kind in ("text", "empty"):
        message = "The file is text." if kind == "text" else "The file is empty and has no name of an image."
        return Skipped(uri, kind, message)
    return Unreadable(uri, relative, DEFAULT_GROUP, "UnsupportedFormat", MESSAGES[kind])

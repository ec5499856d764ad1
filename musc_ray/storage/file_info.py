"""What a filesystem says of a file, as one version and one time for all kinds of stores."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def file_version(info: Mapping[str, Any]) -> str:
    """Return what changes when a file's content does: its ETag where the store has one, otherwise size and time.

    Args:
        info: an entry of `fs.find(..., detail=True)` or `fs.info(...)`.
    """
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if etag:
        return str(etag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return f"{info.get('size', '')}-{changed}"


def file_time(info: Mapping[str, Any]) -> datetime | None:
    """Return when a file was last changed, in UTC; None where the filesystem does not say.

    Args:
        info: an entry of `fs.find(..., detail=True)` or `fs.info(...)`.
    """
    names = ("mtime", "LastModified", "last_modified", "created")
    changed = next((info[name] for name in names if info.get(name) is not None), None)  # 0 is a time: 1970
    if isinstance(changed, int | float):
        return datetime.fromtimestamp(changed, UTC)
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    if isinstance(changed, datetime):
        return changed.astimezone(UTC) if changed.tzinfo else changed.replace(tzinfo=UTC)
    return None

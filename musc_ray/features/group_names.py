"""How messages name groups, and count images."""

from collections.abc import Sequence

MAX_NAMED = 3
"""Groups that a message of many groups names."""


def named(groups: Sequence[str], noun: str = "Group") -> str:
    """Name groups, the first few of many: `Groups 'a', 'b' and 3 more`."""
    some = ", ".join(f"'{name}'" for name in groups[:MAX_NAMED])
    further = f" and {len(groups) - MAX_NAMED:,} more" if len(groups) > MAX_NAMED else ""
    return f"{noun}{'' if len(groups) == 1 else 's'} {some}{further}"


def images_text(count: int) -> str:
    """Return a number of images: `1 image`, `2 images`."""
    return f"{count:,} image{'' if count == 1 else 's'}"

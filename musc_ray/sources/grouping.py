"""Groups by path: the patterns of `group_by`, and what is said where a source looks like several products."""

import re
from collections.abc import Collection

from musc_ray.errors import SettingsError
from musc_ray.sources.containers import container_kind
from musc_ray.sources.images import DEFAULT_GROUP

DATE = re.compile(r"(?:[a-z_]+=)?\d{4}[-_.]?\d\d(?:[-_.]?\d\d)?", re.I)
PARTS_OF_ONE = frozenset(
    ("anomalous", "anomaly", "bad", "data", "defect", "defective", "good", "images", "imgs", "ko", "ng", "normal", "ok")
) | frozenset(("test", "test_public", "train", "val", "valid", "validation"))
"""Folders, in lower case, that hold parts of one product and not products."""

MAX_FOLDERS_NAMED = 3


def group_pattern(group_by: str) -> re.Pattern[str]:
    """Compile a path template or a regular expression.

    Raises:
        SettingsError: it is neither, or names no group.
    """
    if "{group}" in group_by:
        tokens = re.split(r"(\{group\}|\*\*|\*|\?)", group_by)
        meaning = {"{group}": r"(?P<group>[^/]+)", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
        if tokens.count("{group}") == 1:
            return re.compile("".join(meaning.get(token, re.escape(token)) for token in tokens) + r"\Z", re.DOTALL)
    try:
        pattern = re.compile(group_by, re.DOTALL)
    except re.error as error:
        raise SettingsError(f"group_by {group_by!r} is not a valid regular expression: {error}.") from error
    if "group" not in pattern.groupindex:
        raise SettingsError(
            f"group_by {group_by!r} names no group: use a path template such as '{{group}}/**' or a regular expression "
            f"with (?P<group>...)."
        )
    return pattern


def grouping_notes(folders: Collection[str], groups: Collection[str]) -> tuple[str, ...]:
    """Return a note where images of several subfolders are scored as one group, since they may be other products.

    Args:
        folders: the first folder below the source of each image, empty for images in the source itself.
        groups: names of the groups.
    """
    products = sorted(
        name
        for name in folders
        if name and name.lower() not in PARTS_OF_ONE and not DATE.fullmatch(name) and container_kind(name) is None
    )
    if set(groups) != {DEFAULT_GROUP} or len(products) < 2:
        return ()
    named = ", ".join(products[:MAX_FOLDERS_NAMED]) + (", ..." if len(products) > MAX_FOLDERS_NAMED else "")
    return (
        f"Images of {len(products)} folders ({named}) are scored as one group: if they show different products or "
        f"views, use --group-by '{{group}}/**'.",
    )

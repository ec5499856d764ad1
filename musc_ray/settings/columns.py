"""The setting `column`: which columns of a table hold the images or their URIs, the groups and the versions."""

from typing import NamedTuple

ROLES = ("uri", "group", "version", "image")


class ColumnNames(NamedTuple):
    """Names of the columns of a table; None where the usual names are looked for.

    Attributes:
        data: a column of image bytes or of URIs, as its type says.
        uri, group, version: URIs, groups and versions of the images.
        image: encoded images.
        grouped: False if groups come from elsewhere, and no column of them is read.
    """

    data: str | None = None
    uri: str | None = None
    group: str | None = None
    version: str | None = None
    image: str | None = None
    grouped: bool = True

    @property
    def named(self) -> str | None:
        """Return the name that is given for the column of images or URIs."""
        return self.data or self.image or self.uri


USUAL = ColumnNames()


def parse_columns(text: str | None) -> ColumnNames:
    """Parse `NAME`, or roles with names as in `uri=path,group=line`.

    Raises:
        ValueError: it is neither; one sentence.
    """
    if text is None or "=" not in text:
        return ColumnNames(data=text)
    names: dict[str, str] = {}
    for part in text.split(","):
        role, _, name = (word.strip() for word in part.partition("="))
        if role not in ROLES or not name or role in names:
            raise ValueError(
                f"Setting 'column' is NAME, or each of {', '.join(ROLES)} at most once as in 'uri=path,group=line', "
                f"not {text!r}."
            )
        names[role] = name
    if "uri" in names and "image" in names:
        raise ValueError("Setting 'column' names both uri and image: a row is an image by its URI or by its bytes.")
    return ColumnNames(None, names.get("uri"), names.get("group"), names.get("version"), names.get("image"))

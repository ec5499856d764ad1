"""Write data as scripts: JSON in a function call that the pages understand, safe in any browser context."""

import base64
import json
import re
from collections.abc import Sequence

import numpy as np

# Control characters and lone surrogates (undecodable file names) cannot be shown; bidirectional controls would let a
# file name rewrite the text around it. Line breaks and tabs are fine.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Replace characters that must not reach a page by visible escapes such as \\x00."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def data_script(key: str, content: object) -> str:
    """Write an ASCII script that passes `content` to the page that asked for `key`; no NaN, and no `<` of markup."""
    text = json.dumps([key, content], ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"receive(...{text.replace('<', chr(92) + 'u003c')});\n"


def packed(values: np.ndarray) -> str:
    """Encode the bytes of an array, little-endian, in base64."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def rounded(values: np.ndarray, decimals: int = 6) -> list[float]:
    """Round numbers for display; float32 has about 7 digits."""
    result: list[float] = np.round(values.astype(np.float64), decimals).tolist()
    return result


def common_prefix(names: Sequence[str]) -> str:
    """Return the folders that all names share, including the last slash."""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, length) + 1]

"""Secrets out of what people and files get to see: error messages, logs, the errors table, run.json."""

import logging
import os
import re
from collections.abc import Mapping

HIDDEN = "***"

_NAMES = (
    r"(?:[\w-]*(?:password|passwd|passphrase|pwd|secret|token|credentials?|signature|connection_?string)[\w-]*"
    r"|[\w-]*(?:account|access|api|shared|private)[-_]?key(?:[-_]?id)?|sig|key|auth)"
)

SECRETS = re.compile(
    rf"""
      (?P<user>://)[^/@\s:]*:(?!\d{{1,5}}(?:/|$))[^\s'"<>]*(?=@)   # key:secret@host; not the port of host:8080/a@b
    | (?P<web>https?://)[^/@\s]+(?=@)                              # https://token@host
    | (?P<query>[?&;]{_NAMES}=)[^&;\s'"<>]+                        # signed URLs
    | (?P<header>\b(?:authorization|proxy-authorization|x-amz-security-token)['"]?\s*[:=]\s*['"]?
        (?:(?:bearer|basic|token|aws4-hmac-sha256)\s+)?)[^'"\n]+
    | (?P<bearer>\bbearer\s+)[\w.~+/=-]{{8,}}
    | (?P<assigned>\b(?:AWS|AZURE|GOOGLE|GCS|HF|RAY|PYICEBERG)_\w*(?:KEY|KEY_ID|TOKEN|SECRET|PASSWORD|CREDENTIAL)\w*
        ['"]?\s*[:=]\s*['"]?)(?!/)[^\s'",;]+
    | (?P<aws>\b)(?:AKIA|ASIA)[0-9A-Z]{{16}}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)

SECRET_VARIABLE = re.compile(
    r"password|passwd|passphrase|secret|token|credential|(?:account|access|api|shared|private)_?key|connection_?string",
    re.IGNORECASE,
)
NO_SECRET = ("_FILE", "_PATH", "_URI", "_URL", "_MODE", "_TYPE", "_APPLICATION_CREDENTIALS")
SHORTEST = 8
"""Shorter values of variables are not looked for: they would be found in every other word."""


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with secrets as `***`.

    User info and signatures in URLs, Authorization headers, assigned keys, and the values of environment variables that
    hold secrets by their names.
    """
    for value in _secret_values(os.environ if environment is None else environment):
        text = text.replace(value, HIDDEN)
    return SECRETS.sub(
        lambda found: f"{next((v for v in found.groupdict().values() if v is not None), '')}{HIDDEN}", text
    )


def carries_secret(uri: str) -> bool:
    """Whether a URI has user info with a password, or is signed."""
    on_web = uri[:8].lower().startswith(("http://", "https://"))
    if "@" not in uri and not (on_web and "?" in uri):  # a million rows are looked at
        return False
    found = SECRETS.search(uri)
    return found is not None and (found["user"] is not None or on_web)  # `?` is part of a key elsewhere


def _secret_values(environment: Mapping[str, str]) -> list[str]:
    """The longest first: one may be part of another."""
    values = {
        value
        for name, value in environment.items()
        if len(value) >= SHORTEST and SECRET_VARIABLE.search(name) and not name.upper().endswith(NO_SECRET)
    }
    return sorted(values, key=len, reverse=True)


class RedactingFormatter(logging.Formatter):
    """Log lines, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return redacted(super().format(record))


def log_to_stderr() -> None:
    """Show warnings of this process without secrets."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])

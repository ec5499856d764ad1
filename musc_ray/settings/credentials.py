"""Credentials: recognize them in what people give, and keep them out of messages, logs, tables and run.json."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import TextIO
from urllib.parse import unquote

HIDDEN = "***"

ESCAPED = re.compile(r"[^\s'\"]*%[0-9A-Fa-f]{2}[^\s'\"]*")
"""A word with percent escapes, which may hide what REFUSED looks for."""

_WORDS = r"(?:password|passwd|passphrase|pwd|secret|token|credentials?|signature|connection_?string)"
_KEYS = r"(?:account|access|api|shared|private|secret)[-_]?key(?:[-_]?id)?"
_PARTITION = r"(?!(?<=/)token=)"  # tables are partitioned by tokens of text, too: /token=abc/
_USER_INFO = r"://[^/@\s:]*:(?!\d{1,5}(?:/|$))"  # of key:secret@host; not the port of http://host:8080/a@b

REFUSED = re.compile(
    rf"""
      {_USER_INFO}[^@]*@
    | https?://[^/@\s]+@                      # https://token@host
    | {_PARTITION}(?:{_WORDS}|{_KEYS})\s*=
    | [?&;](?:sig|key|auth)=                  # signed URLs
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What no setting may hold, since run.json stores every setting. SECRETS hides all of it."""

SECRETS = re.compile(
    rf"""
      (?P<user>://)[^/@\s:]*:(?!\d{{1,5}}(?:/|$))[^'"<>\n]*(?=@)
    | (?P<web>https?://)[^/@\s]+(?=@)
    | (?P<query>[?&;](?:[\w-]*{_WORDS}[\w-]*|[\w-]*{_KEYS}|sig|key|auth)=)[^&;\s'"<>]+
    | (?P<header>\b(?:authorization|proxy-authorization|x-amz-security-token)['"]?\s*[:=]\s*['"]?
        (?:(?:bearer|basic|token|aws4-hmac-sha256)\s+)?)[^'"\n]+
    | (?P<bearer>\bbearer\s+)[\w.~+/=-]{{8,}}
    | (?P<assigned>\b(?:AWS|AZURE|GOOGLE|GCS|HF|RAY|PYICEBERG)_\w*(?:KEY|KEY_ID|TOKEN|SECRET|PASSWORD|CREDENTIAL)\w*
        ['"]?\s*[:=]\s*['"]?)(?!/)[^\s'",;]+
    | (?P<named>{_PARTITION}(?:{_WORDS}|{_KEYS})\s*=\s*)[^\s'"&;,<>]+
    | (?P<aws>\b)(?:AKIA|ASIA)[0-9A-Z]{{16}}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)

SECRET_VARIABLE = re.compile(
    r"password|passwd|passphrase|secret|token|credential|(?:account|access|api|shared|private)_?key|connection_?string",
    re.IGNORECASE,
)
NOT_SECRET_ENDINGS = ("_FILE", "_PATH", "_URI", "_URL", "_MODE", "_TYPE", "_APPLICATION_CREDENTIALS")
MIN_VALUE_LENGTH = 8
"""Shorter values of environment variables are not hidden: they would match ordinary words."""


def has_credentials(text: str) -> bool:
    """Tell whether a path or URI carries a password, key or token: user info, query string or `password=...`."""
    return any(REFUSED.search(form) for form in (text, unquote(text)))


def credentials_sentence(what: str) -> str:
    """Refuse a value that carries credentials; `what` names it without repeating it."""
    return (
        f"{what} carries credentials: take them out of it and give them in the environment "
        "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, ...)."
    )


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace secrets by `***`.

    Hides user info and signatures in URLs, Authorization headers, assigned keys, and the values of environment
    variables whose names say that they are secrets.

    Args:
        text: a message, a log line, a URI.
        environment: variables by name; default: this process's.
    """
    for value in _secret_values(os.environ if environment is None else environment):
        text = text.replace(value, HIDDEN)
    text = SECRETS.sub(_hide, text)
    return ESCAPED.sub(lambda word: HIDDEN if REFUSED.search(unquote(word[0])) else word[0], text)


def _hide(found: re.Match[str]) -> str:
    """Keep what precedes a secret."""
    return next((kept for kept in found.groupdict().values() if kept is not None), "") + HIDDEN


def carries_secret(uri: str) -> bool:
    """Tell whether the URI of an image has user info with a password, or is signed."""
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
        if len(value) >= MIN_VALUE_LENGTH
        and SECRET_VARIABLE.search(name)
        and not name.upper().endswith(NOT_SECRET_ENDINGS)
    }
    return sorted(values, key=len, reverse=True)


class RedactingFormatter(logging.Formatter):
    """Log lines, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return redacted(super().format(record))


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the standard error stream of the moment: live lines take its place while they are on a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.setStream(sys.stderr)
        super().emit(record)


def log_to_stderr() -> None:
    """Show warnings of this process without secrets."""
    handler = StderrHandler()
    handler.setFormatter(RedactingFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])

"""Classify S3 errors: transient ones that s3fs does not retry by itself, and refusals that are not about one image."""

import sys

OF_THE_OBJECT = "InvalidObjectState"
"""A refusal that is about the object alone: it is stored in an archive tier."""


def wait_for_s3() -> None:
    """Make s3fs retry refused connections and status 5xx as well.

    By itself it retries throttled and interrupted requests only. With this a store may be unreachable for about half a
    minute before a call fails.
    """
    import s3fs.core

    s3fs.core.set_custom_error_handler(may_pass)


def may_pass(error: Exception) -> bool:
    """Tell whether a retry may succeed after an error of boto or aiohttp."""
    from aiohttp import ClientError as ConnectionFault
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    if isinstance(error, NoConnection | HTTPClientError | ConnectionFault):
        return True
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500


def is_away(error: BaseException) -> bool:
    """Whether an error is one of S3's client that may pass; in a process without that client none is."""
    return isinstance(error, Exception) and "botocore" in sys.modules and may_pass(error)


def refuses(error: BaseException) -> bool:
    """Whether S3 refused the one who asks: the key, its rights, or this machine's clock; never a broken object.

    Which of them it was is not always said: a refused HEAD has no body.
    """
    response = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, PermissionError) and response.get("Error", {}).get("Code", OF_THE_OBJECT) != OF_THE_OBJECT

"""Errors that a user can act on: each message is one sentence that names the thing and the way out."""


class MuscRayError(Exception):
    """The job cannot continue (exit code 1). The message is shown to the user unchanged."""


class ImageError(MuscRayError):
    """An image cannot be used; the message says why, without the path, which the caller knows."""


class SettingsError(MuscRayError):
    """The settings or the command line cannot be used (exit code 2)."""


def reason_of(error: BaseException) -> str:
    """Return an error's message on one line without its final period; its class where the message is empty."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__

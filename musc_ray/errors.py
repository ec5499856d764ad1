"""Errors a user can act on: each is one readable sentence that names the thing and the way out."""


class MuscRayError(Exception):
    """The job cannot go on (exit code 1). The message is shown to the user as it is."""


class ImageError(MuscRayError):
    """An image that cannot be used; the message says why, without the path, which the caller knows."""


class SettingsError(MuscRayError):
    """The settings or the command line cannot be used (exit code 2)."""


def reason_of(error: BaseException) -> str:
    """Return an error's message on one line without its final period; its class where the message is empty."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__

"""Text that is safe to print: a name of a file may hold what a terminal takes for a command."""

import unicodedata

KEPT = frozenset("\n\t")


def visible(text: str) -> str:
    r"""Return a text with its control characters and lone surrogates spelled out, as \x1b; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(repr(character)[1:-1] if _is_command(character) else character for character in text)


def _is_command(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in KEPT

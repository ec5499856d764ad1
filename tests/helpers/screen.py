"""What a terminal shows after it was sent some text: lines, and whether there is a cursor."""

import re

CODE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """A terminal without a bottom that knows the control codes of rich's live lines, and no others.

    Attributes:
        lines: what it shows, without spaces at the ends.
        has_cursor: whether the cursor is shown.
    """

    def __init__(self, sent: str) -> None:
        rows, row, column, at = [""], 0, 0, 0
        self.has_cursor = True
        while at < len(sent):
            if match := CODE.match(sent, at):
                at = match.end()
                private, number, letter = match.groups()
                if letter == "A":
                    row = max(0, row - int(number or 1))
                elif letter == "K":
                    rows[row] = ""
                elif private and letter in "hl":
                    self.has_cursor = letter == "h"
                elif letter != "m":
                    raise AssertionError(f"The screen does not know the control code {match[0]!r}.")
                continue
            character, at = sent[at], at + 1
            if character == "\r":
                column = 0
            elif character == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            else:
                rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
                column += 1
        self.lines = [line.rstrip() for line in rows]
        while self.lines and not self.lines[-1]:
            self.lines.pop()

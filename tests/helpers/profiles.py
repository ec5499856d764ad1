"""Small ICC profiles, built by hand: a wide gamut, grey of any gamma, and inks."""

import itertools
import struct

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""Red, green and blue as XYZ under D50."""

D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries=ADOBE_RGB, gamma: float = 2.19921875) -> bytes:
    """A display with some primaries."""
    tags = {name: _xyz(*primary) for name, primary in zip(("rXYZ", "gXYZ", "bXYZ"), primaries, strict=True)}
    return _profile("mntr", "RGB ", "XYZ ", {**tags, **dict.fromkeys(("rTRC", "gTRC", "bTRC"), _curve(gamma))})


def grey_profile(gamma: float) -> bytes:
    """Grey values with a gamma; 1 is linear light."""
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": _curve(gamma)})


def ink_profile() -> bytes:
    """Inks whose lightness is that of the paper less all of them: a table of 2 x 2 x 2 x 2 colours."""
    table = bytes(
        value for inks in itertools.product((0, 1), repeat=4) for value in (max(0, 255 - 85 * sum(inks)), 128, 128)
    )
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", value << 16) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4 + table + ramp * 3
    return _profile("prtr", "CMYK", "Lab ", {"A2B0": lut})


def _profile(kind: str, space: str, connection: str, tags: dict[str, bytes]) -> bytes:
    tags = {"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), "wtpt": _xyz(*D50), **tags}
    place, entries, content = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        entries += name.encode() + struct.pack(">II", place + len(content), len(value))
        content += value
    header = struct.pack(">I4sI4s4s4s12s4s", place + len(content), b"none", 0x02400000, kind.encode(), space.encode(),
                         connection.encode(), struct.pack(">6H", 2024, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    header += bytes(68 - len(header)) + _xyz(*D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + content


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))

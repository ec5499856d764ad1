"""Bytes of real files, changed: what a bad disk, a cut transfer and an attacker do to them."""

from hypothesis import strategies as st

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One of the seeds with up to 6 changes: flipped bits, set bytes, numbers blown up, parts cut, doubled or moved."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1) | st.integers(0, min(len(data) - 1, 200)))
        kind = draw(st.sampled_from(("bit", "byte", "number", "cut", "drop", "double", "insert")))
        length = draw(st.integers(1, 64))
        if kind == "bit":
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[place] = draw(st.sampled_from(INTERESTING) | st.integers(0, 255))
        elif kind == "number":
            width = draw(st.sampled_from((2, 4, 8)))
            number = draw(st.sampled_from((0, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)))
            data[place : place + width] = number.to_bytes(width, draw(st.sampled_from(("little", "big"))))
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + length]
        elif kind == "double":
            data[place:place] = data[place : place + length]
        else:
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
    return bytes(data)

"""Where images come from: list a source, read an image's bytes, decode them; groups."""

"""Where things lie and how they are written: fsspec and pyarrow, no Ray, no arithmetic."""

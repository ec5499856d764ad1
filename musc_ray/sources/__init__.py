"""Where images come from: list a SOURCE, group its images, read an image's bytes, decode them.

An image has one type per stage:

- `ListedImage` (`images.py`): a kind of source lists it, with URI, path below the source, group, version, time.
  Whatever else lies there is `Skipped` with a reason, or `Unreadable`: nothing is left out.
- `CatalogImage` (`images.py`): `catalog.py` gives it its id and its group; features, scores and nights start from it.
- bytes, then pixels: `reading.read_image` reads the URI, `decoding.decode_image` decodes.
- `ShardImage` (`storage/shards.py`): what became of it in a shard of features, extracted or failed with a message.

A kind of source is one module that implements `Source` (`base.py`); `registry.py` holds all kinds in the order in
which they are recognised:

- `iceberg.py`: `iceberg://CATALOG/NAMESPACE.TABLE?filter=...`, a row an image
- `dataset.py`: `FOLDER?filter=...`, the rows of Parquet files that a filter keeps
- `table.py`: a CSV or Parquet file whose rows name images by URI
- `files.py`: everything else: a folder, prefix, glob or single file

A file that holds many images is a `Container` (`base.py`): `tar.py` and `parquet_images.py` list and read theirs;
`containers.py` finds the container of a file or URI.
"""

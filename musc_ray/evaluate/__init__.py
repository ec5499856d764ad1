"""Compare a run with labels and masks: image metrics, pixel metrics, and their tables.

    evaluation.py      the driver: labels, then image metrics, then pixel metrics, then tables
    labels.py          labels from the folders of a dataset or from a CSV
    layouts.py         the folders of the known datasets
    pixel_metrics.py   pixel metrics on the worker pool, in passes over the maps
    evaluator.py       the role of these passes
    mask_files.py      which file is the mask of which image
    mask_pixels.py     which pixels of a mask are anomalous, whatever its mode
    mask_fit.py        masks on their images: aspect ratio, orientation
    masks.py, maps.py  masks as regions, pixel maps with their regions
    problems.py        what is wrong with labels and masks
    pooled.py          scores of images that are evaluated together but were scored apart
    table.py           the table of metrics as Parquet, CSV and Markdown
    benchmark.py       the paper's protocol on a whole dataset

Nothing that scores images may import this package: labels must not reach the scores.
"""

"""Publish scores to Apache Iceberg tables; needs the extra `lake`.

Three tables: `<table>` holds every row of every run, `<table>_current` the latest row of each image, and `<table>_runs`
what each run was made of. Nothing here imports Ray.

    publish.py      which runs of an OUT to publish, and to which catalog
    run_tables.py   what one run adds to, and replaces in, each of the three tables
    commit.py       one atomic commit to one table, retried on conflicts
    data_files.py   reading and writing single data files
    schema.py       columns, comments, partitions
    catalog.py      opening a catalog and its tables
"""

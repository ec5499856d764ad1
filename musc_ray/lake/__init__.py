"""The scores as Apache Iceberg tables, and Iceberg tables as a source of images; needs the extra `lake`.

Three tables: `<table>` holds every row of every run, `<table>_current` the latest row of each image, and `<table>_runs`
what each run was made of. All that touches pyiceberg is here; nothing here knows of Ray.
"""

"""What people say of images: read the verdicts.csv of a report, store it beside the runs, show where it stands.

    rows.py        the rows of a verdicts.csv
    importing.py   find their images in an OUT, and store them
    standing.py    counts by group, thresholds by verdicts, precision and recall so far

`storage/verdicts.py` has the tables, `scoring/labelled.py` the thresholds, `evaluate/labels.py` the labels.
"""

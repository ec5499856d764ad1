"""How well a run found what labels and masks say: labels of the field's datasets, masks as regions, tables of metrics.

Nothing that scores images may import this package: labels must not reach the scores.
"""

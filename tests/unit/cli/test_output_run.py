"""The list of the worst images: their peaks in original pixels where there is room and they are known."""

import io

import pytest
from rich.console import Console

from musc_ray.cli.output_run import MIN_PEAK_WIDTH, _print_worst

ROW = {"rank": 1, "score": 1.0, "score_raw": 0.5, "percentile": 99.0, "group": "g", "uri": "/a/tile.png"}
KNOWN = {"height": 2000, "width": 3000, "peak_y": 1204, "peak_x": 2310}
UNKNOWN = dict.fromkeys(KNOWN)


@pytest.mark.parametrize(
    ("width", "places", "shown"),
    [
        (MIN_PEAK_WIDTH, [KNOWN, UNKNOWN], True),
        (MIN_PEAK_WIDTH - 1, [KNOWN, UNKNOWN], False),
        (MIN_PEAK_WIDTH, [UNKNOWN, UNKNOWN], False),
    ],
)
def test_peaks_of_the_worst_images(width, places, shown):
    stream = io.StringIO()
    _print_worst([{**ROW, **place} for place in places], Console(file=stream, width=width))
    text = stream.getvalue()
    assert ("2310, 1204" in text and "3000 x 2000" in text and "peak x, y" in text) == shown
    assert text.count("tile.png") == 2
    assert "None" not in text

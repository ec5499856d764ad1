"""What is said of a run: peaks of the worst images where they are known, sizes of images, crops."""

import io

import pytest
from rich.console import Console

from musc_ray.cli.output_run import MIN_PEAK_WIDTH, _print_worst, crops_line, image_size_line
from musc_ray.storage.manifest import RunManifest
from tests.helpers.manifests import run_record

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


def test_crops_and_the_size_of_whole_images():
    cut = {"rows": 5, "columns": 7, "overlap": 0.2, "image_size": [224, 224], "grid": [80, 112]}
    run = RunManifest.model_validate(run_record("r", image_sizes={"a": [182, 280]}, crops={"a": cut}))
    assert crops_line(run) == "Crops: 5 x 7 of 224 x 224, overlap 0.2 (maps of 80 x 112)"
    assert image_size_line(run) == "Image size: 182 x 280 (13 x 20 patches), the shape of the group's images"
    more = {name: {**cut, "rows": rows} for name, rows in zip("abcdef", (5, 5, 4, 3, 2, 2), strict=True)}
    line = crops_line(RunManifest.model_validate(run_record("r", crops=more)))
    assert line.startswith("Crops: 5 x 7 of 224 x 224, overlap 0.2 (maps of 80 x 112), in 2 groups; 2 x 7")
    assert line.endswith("; and 1 more")

"""A run on a messy folder, as a user does it: what is listed is scored, an error or skipped, and everything says so."""

import json

import pandas
import pytest
from PIL import Image

from tests.helpers.door import ERROR, IMAGE, write_files, write_links
from tests.helpers.pictures import solar_cells


@pytest.fixture(scope="module")
def options(tiny_weights):
    model = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", tiny_weights, "--image-size", "64"]
    return [*model, "--set", "workers=1", "--set", "report_images=1", "--set", "report_thumbnails=0"]


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A messy folder, and what must become of each entry."""
    root = tmp_path_factory.mktemp("messy")
    expected = write_files(root / "src") | write_links(root / "src", root / "outside")
    return root / "src", expected


def test_a_messy_folder_adds_up(invoke, options, messy, tmp_path):
    source, expected = messy
    wanted = {outcome: sum(found == outcome for found in expected.values()) for outcome in set(expected.values())}
    planned = invoke("plan", source, *options, "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    skipped = {reason: count for reason, count in wanted.items() if reason not in (IMAGE, ERROR)}
    assert (plan["listed"], plan["images"], plan["errors"]) == (len(expected), wanted[IMAGE], wanted[ERROR])
    assert plan["skipped"] == skipped
    assert {example["reason"] for example in plan["skipped_examples"]} == set(skipped)

    out = tmp_path / "out"
    refused = invoke("run", source, out, *options, "--run-id", "messy")
    assert refused.exit_code == 1
    assert f"{wanted[ERROR]} of {wanted[ERROR] + wanted[IMAGE]} images cannot be read" in refused.stderr
    assert refused.stderr.count("\n  file://") == 5
    (status,) = json.loads(invoke("status", out, "--json").stdout)
    assert "cannot be read" in status["failure"]
    assert "failed" in invoke("status", out).stdout

    done = invoke("run", source, out, *options, "--run-id", "messy", "--max-error-fraction", "0.5")
    assert done.exit_code == 0, done.output
    run = out / "runs/messy"
    counts = json.loads((run / "run.json").read_text())["counts"]
    assert counts["listed"] == counts["scored"] + counts["failed"] + counts["skipped"] == len(expected)
    assert counts["scored"] == wanted[IMAGE]
    tables = {name: pandas.read_parquet(run / name) for name in ("scores", "errors", "skipped")}
    assert {name: len(table) for name, table in tables.items()} == {
        "scores": counts["scored"],
        "errors": counts["failed"],
        "skipped": counts["skipped"],
    }
    assert tables["skipped"]["reason"].value_counts().to_dict() == skipped
    assert f"{counts['failed']} failed, {counts['skipped']} skipped of {counts['listed']} listed" in done.stdout
    assert f"{counts['skipped']} skipped of {counts['listed']} listed" in invoke("status", out).stdout
    report = (run / "report/index.html").read_text()
    assert f"{wanted['mask']} mask" in report
    (status,) = json.loads(invoke("status", out, "--json").stdout)
    assert (status["complete"], status["failure"], status["skipped"]) == (True, None, counts["skipped"])


@pytest.mark.slow
def test_images_of_a_group_that_fails_are_errors(invoke, options, tmp_path):
    for number, path in enumerate(solar_cells(4)):
        folder = tmp_path / "src" / ("alone" if number == 0 else "many")
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((64, 64)).save(folder / path.name)
    done = invoke("run", tmp_path / "src", tmp_path / "out", *options, "--group-by", "{group}/*", "--run-id", "groups")
    assert done.exit_code == 1, "a failed group fails the command"
    run = tmp_path / "out/runs/groups"
    counts = json.loads((run / "run.json").read_text())["counts"]
    assert (counts["listed"], counts["scored"], counts["failed"], counts["skipped"]) == (4, 3, 1, 0)
    (error,) = pandas.read_parquet(run / "errors").to_dict("records")
    assert (error["group"], error["stage"], error["error"]) == ("alone", "score", "GroupError")
    assert "at least 2" in error["message"]

"""Thresholds of a run: the column and run.json, another one for a complete run, and none again."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from musc_ray.core.threshold import suggest_threshold
from musc_ray.scoring import thresholds
from tests.helpers.pictures import write_pictures


@pytest.fixture(scope="module")
def command(invoke, tiny_weights, tmp_path_factory):
    """Scores 20 pictures in two groups; more arguments in, what is printed out."""
    folder = tmp_path_factory.mktemp("archive")
    write_pictures(folder / "images", 20)

    def run(*arguments: object) -> str:
        options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", tiny_weights]
        options += ["--image-size", "64", "--shard-size", "4", "--set", "workers=1", "--set", "report_images=2"]
        source, out = folder / "images", folder / "out"
        result = invoke("run", source, out, *options, "--group-by", "{group}/**", *arguments)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    run.out = folder / "out"
    return run


def only_run(out: Path) -> Path:
    (run,) = (out / "runs").iterdir()
    return run


def run_json(out: Path) -> dict:
    return json.loads((only_run(out) / "run.json").read_text())


def scores_of(out: Path) -> dict[str, pa.Table]:
    return {
        group: ds.dataset(only_run(out) / "scores", format="parquet").to_table(filter=ds.field("group") == group)
        for group in ("line 0", "line 1")
    }


@pytest.mark.slow
def test_thresholds_of_a_run_and_another_one_and_none(command, monkeypatch):
    text = command()
    plain = scores_of(command.out)
    assert "thresholds" not in run_json(command.out)
    for group, table in plain.items():
        assert table.column_names[-1] == "peak_x"
        # rounded up to what is printed, and counted as printed
        suggested = np.ceil(suggest_threshold(table["score"].to_numpy()) * 1e4) / 1e4
        held = int((table["score"].to_numpy() >= suggested).sum())
        name = f"Group {group.replace('%20', ' ')}: "
        counted = f"threshold suggested {suggested:.4f}: {held} of 10 images would be anomalous"
        assert f"{name}{counted if held else f'no image stands out (threshold suggested {suggested:.4f})'}" in text

    text = command("--contamination", "0.2")
    assert "already complete" in text
    assert "Group line 0: 2 of 10 images are anomalous (score at least" in text
    written = run_json(command.out)
    assert (written["settings"]["contamination"], written["settings"]["threshold"]) == (0.2, None)
    for group, table in scores_of(command.out).items():
        assert table.column_names[-1] == "is_anomalous"
        assert table.schema.field("is_anomalous") == pa.field("is_anomalous", pa.bool_(), nullable=False)
        assert table.drop_columns(["is_anomalous"]).equals(plain[group])
        scores = table["score"].to_numpy()
        threshold = written["thresholds"][group.replace("%20", " ")]
        assert threshold == np.sort(scores)[-2]
        assert table["is_anomalous"].to_pylist() == (scores >= threshold).tolist()
    before = {path: path.stat().st_mtime_ns for path in only_run(command.out).rglob("*") if path.is_file()}
    command("--contamination", "0.2")
    assert before == {path: path.stat().st_mtime_ns for path in only_run(command.out).rglob("*") if path.is_file()}

    # a new threshold that is cut short is taken up
    with monkeypatch.context() as patched:
        patched.setattr(thresholds, "_mark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(AssertionError):
            command("--threshold", "0.5")
    assert run_json(command.out)["thresholds"] is None
    command("--threshold", "0.5")
    assert run_json(command.out)["thresholds"] == {"line 0": 0.5, "line 1": 0.5}
    for table in scores_of(command.out).values():
        assert table["is_anomalous"].to_pylist() == (table["score"].to_numpy() >= 0.5).tolist()

    command()
    assert "thresholds" not in run_json(command.out)
    assert all(table.equals(plain[group]) for group, table in scores_of(command.out).items())

    # computed with the rule from the start, by the publish stage: the same table
    command("--contamination", "0.2", "--overwrite")
    assert run_json(command.out)["thresholds"] == pytest.approx(written["thresholds"], abs=1e-6)
    for group, table in scores_of(command.out).items():
        assert table.column_names == [*plain[group].column_names, "is_anomalous"]
        assert table.schema.field("is_anomalous") == pa.field("is_anomalous", pa.bool_(), nullable=False)
        assert sum(table["is_anomalous"].to_pylist()) == 2
        assert [row["rank"] <= 2 for row in table.to_pylist()] == table["is_anomalous"].to_pylist()

"""Known good images through runs, nights and `rescore --verdicts`: what is scored, counted, kept, and scored again."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from musc_ray.sources.images import image_id
from tests.helpers.pictures import write_pictures
from tests.integration.test_verdicts import Plant, write_verdicts


@pytest.fixture
def plant(invoke, tiny_weights, tmp_path) -> Plant:
    plant = Plant(invoke, tiny_weights, tmp_path)
    for number, path in enumerate(write_pictures(tmp_path / "others", 6, seed=5)):
        (tmp_path / "good").mkdir(exist_ok=True)
        shutil.move(path, tmp_path / "good" / f"{number}{path.suffix}")
    return plant


def pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check_counts(run: dict) -> dict:
    counts = run["counts"]
    names = ("scored", "failed", "skipped", "known", "waiting", "known_good")
    assert counts["listed"] == sum(counts[name] for name in names), counts
    return counts


def name_of(row: dict) -> str:
    return Path(row["uri"]).name


def test_a_source_of_known_good_images(plant, tmp_path):
    before, alone = plant.run()
    assert "judged" not in before
    both = pictures(tmp_path / "images")[0]
    shutil.copy(both, tmp_path / "good" / f"twice{both.suffix}")  # another file, which is not taken from the archive
    (tmp_path / "good" / "broken.png").write_bytes(both.read_bytes()[:60])
    run, scores = plant.run("--known-good", tmp_path / "good", "--set", "max_error_fraction=0.5")
    assert run["run_id"] != before["run_id"]
    assert scores.keys() == alone.keys()
    counts = check_counts(run)
    assert (counts["scored"], counts["known_good"], counts["failed"]) == (14, 7, 1)
    assert run["judged"]["all"]["known_good"] == 7
    assert "Group 'all': compared with 7 images known to be good." in run["notes"]
    assert scores[image_id(f"file://{both}")]["score_raw"] < 1e-3, "its copy is known to be good"
    catalog = pq.read_table(plant.out / "runs" / run["run_id"] / "catalog.parquet").to_pylist()
    assert sum(row["known_good"] for row in catalog) == 8
    _, asked = plant.run("--known-good", tmp_path / "good", "--set", "max_error_fraction=0.5", "--score-known-good")
    assert len(asked) == 21
    check_counts(plant.latest()[0])
    for key, row in scores.items():
        assert asked[key]["score_raw"] == pytest.approx(row["score_raw"], abs=1e-6)


def test_images_of_the_archive_itself_that_are_known_good_are_not_scored(plant, tmp_path):
    chosen = pictures(tmp_path / "images")[:3]
    (tmp_path / "listed.csv").write_text("uri\n" + "\n".join(f"file://{path}" for path in chosen) + "\n")
    run, scores = plant.run("--known-good", tmp_path / "listed.csv")
    counts = check_counts(run)
    assert (counts["scored"], counts["known_good"], counts["listed"]) == (11, 3, 14)
    assert not {path.name for path in chosen} & {name_of(row) for row in scores.values()}


def test_groups_of_known_good_images_are_those_of_the_source(plant, tmp_path):
    for group in ("a", "b"):
        shutil.copytree(tmp_path / "images", tmp_path / "groups" / group)
        shutil.copytree(tmp_path / "good", tmp_path / "vouched" / group.replace("b", "c"))
    options = [*plant.options, "--group-by", "{group}/**"]
    plant.command("run", tmp_path / "groups", plant.out, *options, "--known-good", tmp_path / "vouched")
    run, _ = plant.latest()
    assert run["judged"].keys() == {"a"}
    counts = check_counts(run)
    assert (counts["known_good"], counts["known"]) == (12, 0)
    assert "6 known good images are of group 'c', which the source does not have: they are not used." in run["notes"]
    refused = plant.invoke("run", tmp_path / "groups", plant.out, *options, "--known-good", tmp_path / "good")
    assert refused.exit_code == 2
    assert "group_by '{group}/**' fits none of the 6 images" in " ".join(refused.output.split())
    shutil.rmtree(tmp_path / "vouched" / "a")
    refused = plant.invoke("run", tmp_path / "groups", plant.out, *options, "--known-good", tmp_path / "vouched")
    assert refused.exit_code == 2
    assert "are of group 'c', the source has groups 'a', 'b'" in " ".join(refused.output.split())


@pytest.mark.slow
def test_verdicts_score_again_what_they_change(plant, tmp_path):
    for group in ("a", "b"):
        shutil.copytree(tmp_path / "images", tmp_path / "groups" / group)
    plant.command("run", tmp_path / "groups", plant.out, *plant.options, "--group-by", "{group}/**")
    first, scores = plant.latest()
    by_name = {(row["group"], name_of(row)): key for key, row in scores.items()}
    names = sorted(name for group, name in by_name if group == "a")
    good, bad = by_name["a", names[0]], by_name["a", names[1]]
    nothing = plant.command("rescore", plant.out, "--verdicts")
    assert "No verdict has changed since its group was scored last" in nothing
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "1.csv", [(good, "good"), (bad, "defective")]))
    plant.command("rescore", plant.out, "--verdicts")
    second, again = plant.latest()
    assert {row["group"] for row in again.values()} == {"a"}
    assert good not in again
    assert bad in again
    assert second["judged"]["a"]["known_good"] == second["judged"]["a"]["defective"] == 1
    check_counts(second)
    assert second["stages"]["extract"]["images"] == 0, "features are there"
    assert "nothing to score" in plant.command("rescore", plant.out, "--verdicts")
    whole = plant.command("run", tmp_path / "groups", plant.out, *plant.options, "--group-by", "{group}/**")
    assert "1 known good" in whole
    third, all_scores = plant.latest()
    assert third["run_id"] not in (first["run_id"], second["run_id"])
    for key, row in again.items():
        assert all_scores[key]["score_raw"] == pytest.approx(row["score_raw"], abs=1e-6)
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "2.csv", [(good, "unsure"), (bad, "unsure")]))
    plant.command("rescore", plant.out, "--verdicts")
    last, back = plant.latest()
    assert "judged" not in last
    for key, row in back.items():
        assert row["score_raw"] == pytest.approx(scores[key]["score_raw"], abs=1e-6)


@pytest.mark.slow
def test_nights_go_on_with_what_is_known(plant, tmp_path):
    _, scores = plant.run("--known-good", tmp_path / "good")
    ids = sorted(scores, key=lambda key: scores[key]["score_raw"])
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "v.csv", [(ids[0], "good"), (ids[-1], "defective")]))
    for path in write_pictures(tmp_path / "more", 4, seed=9):
        shutil.copy(path, tmp_path / "images" / f"new-{path.name}")
    plant.command("rescore", plant.out)
    night, found = plant.latest()
    assert len(found) == 4
    assert night["settings"]["known_good"] == str(tmp_path / "good")
    assert night["judged"]["all"]["known_good"] == 7
    assert night["night"]["all"] == night["night"]["all"] | {"new": 4, "window": 12}
    assert night["stages"]["extract"]["images"] == 4
    check_counts(night)
    assert plant.command("rescore", plant.out).startswith("No new images to score.")
    plant.command("gc", plant.out, "--older-than", "1", "--delete")
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "w.csv", [(ids[0], "unsure")]))
    plant.command("rescore", plant.out, "--verdicts")
    again, found = plant.latest()
    assert again["stages"]["extract"]["images"] == 0, "garbage is not what known good images need"
    assert again["judged"]["all"]["known_good"] == 6
    assert again["night"]["all"]["new"] == 4
    assert plant.command("rescore", plant.out).startswith("No new images"), "it has a score, of the first run"


def test_a_folder_that_is_gone_is_named(plant, tmp_path):
    plant.run("--known-good", tmp_path / "good")
    shutil.rmtree(tmp_path / "good")
    refused = plant.invoke("rescore", plant.out)
    assert refused.exit_code == 1
    assert str(tmp_path / "good") in " ".join(refused.output.split())


def groups_of_pictures(plant: Plant, tmp_path: Path) -> list[object]:
    """Copy the pictures into groups a and b, known good ones into a alone; returns the options of a run on them."""
    for group in ("a", "b"):
        shutil.copytree(tmp_path / "images", tmp_path / "groups" / group)
    shutil.copytree(tmp_path / "good", tmp_path / "vouched" / "a")
    return [*plant.options, "--group-by", "{group}/**", "--known-good", tmp_path / "vouched"]


@pytest.mark.slow
def test_known_good_images_of_some_groups_do_not_stop_what_comes_later_to_others(plant, tmp_path):
    options = groups_of_pictures(plant, tmp_path)
    plant.command("run", tmp_path / "groups", plant.out, *options)
    first, scores = plant.latest()
    of_b = sorted(key for key, row in scores.items() if row["group"] == "b")
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "v.csv", [(of_b[0], "good")]))
    plant.command("rescore", plant.out, "--verdicts")
    run, found = plant.latest()
    assert run["run_id"] != first["run_id"]
    assert {row["group"] for row in found.values()} == {"b"}
    assert (check_counts(run)["listed"], run["counts"]["known"], run["counts"]["known_good"]) == (14, 0, 1)
    assert not any("not used" in note for note in run["notes"])
    for path in write_pictures(tmp_path / "later" / "b", 3, seed=11):
        path.rename(path.with_name(f"new-{path.name}"))
    plant.command("rescore", plant.out, "--set", f"source={tmp_path / 'later'}")
    night, found = plant.latest()
    assert len(found) == 3
    assert any("are of group 'a', of which nothing is listed now: not used" in note for note in night["notes"])
    assert (check_counts(night)["known"], night["counts"]["known_good"]) == (0, 6)


@pytest.mark.slow
def test_the_latest_run_has_what_counts_after_verdicts_are_taken_back(plant, tmp_path):
    first, scores = plant.run()
    one = min(scores)
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "1.csv", [(one, "good")]))
    plant.command("rescore", plant.out, "--verdicts")
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "2.csv", [(one, "unsure")]))
    plant.command("rescore", plant.out, "--verdicts")
    last, back = plant.latest()
    assert last["run_id"] == f"{first['run_id']}-2"
    assert "judged" not in last
    assert {key: row["score"] for key, row in back.items()} == pytest.approx(
        {key: row["score"] for key, row in scores.items()}, abs=1e-6
    )
    assert "nothing to score" in plant.command("rescore", plant.out, "--verdicts")


@pytest.mark.slow
def test_a_verdict_is_of_the_file_that_was_there(plant, tmp_path):
    _, scores = plant.run()
    changed, kept, bad = sorted(scores)[:3]
    said = [(changed, "good"), (kept, "good"), (bad, "defective")]
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "v.csv", said))
    path = Path(scores[changed]["uri"].removeprefix("file://"))
    path.write_bytes(write_pictures(tmp_path / "other", 1, seed=12)[0].read_bytes())
    plant.command("rescore", plant.out)
    night, found = plant.latest()
    assert set(found) == {changed}
    assert night["judged"]["all"]["known_good"] == 1
    for _ in range(2):  # runs that know the new file do not make it the one that was judged
        run, found = plant.run("--overwrite")
        assert changed in found
        assert kept not in found
        assert run["judged"]["all"]["known_good"] == 1
    (labels,) = run["labelled_thresholds"].values()
    assert (labels["good"], labels["defective"]) == (2, 1), "the changed one with the score of the file that was judged"


@pytest.mark.slow
def test_known_good_images_are_scored_beside_repeated_defects(plant, tmp_path):
    _, alone = plant.run("--known-good", tmp_path / "good", "--repeated-defects")
    run, scores = plant.run("--known-good", tmp_path / "good", "--repeated-defects", "--score-known-good")
    assert check_counts(run)["scored"] == 20
    for key, row in alone.items():
        assert scores[key]["score_raw"] == pytest.approx(row["score_raw"], abs=1e-6)
        assert scores[key]["defect_group"] == row["defect_group"]


def test_known_good_images_that_cannot_be_read_are_noted(plant, tmp_path):
    (tmp_path / "vouched").mkdir()
    (tmp_path / "vouched" / "broken.png").write_bytes(b"no image")
    run, _ = plant.run("--known-good", tmp_path / "vouched")
    assert check_counts(run)["failed"] == 1
    assert "Group 'all': of 1 image known to be good none can be read, so it was compared with none." in run["notes"]


def test_a_group_without_undecided_images_says_so_to_checks(plant, tmp_path):
    _, scores = plant.run()
    said = [(key, "defective") for key in scores]
    plant.command("verdicts", plant.out, write_verdicts(tmp_path / "v.csv", said))
    refused = plant.invoke("check", plant.out, pictures(tmp_path / "good")[0])
    assert refused.exit_code == 1
    assert "are known to be good or found defective" in " ".join(refused.output.split())


@pytest.mark.slow
def test_features_of_known_good_images_can_be_extracted_beforehand(plant, tmp_path):
    places = [tmp_path / "images", plant.out, *plant.options]
    plant.command("extract", *places)
    refused = plant.invoke("score", *places, "--known-good", tmp_path / "good")
    assert "6 of 20 images have no features" in " ".join(refused.output.split())
    plant.command("extract", *places, "--known-good", tmp_path / "good")
    plant.command("score", *places, "--known-good", tmp_path / "good")
    run, _ = plant.latest()
    assert (check_counts(run)["scored"], run["counts"]["known_good"]) == (14, 6)

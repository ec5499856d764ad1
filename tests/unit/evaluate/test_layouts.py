"""Labels and masks from little trees in the exact layout of each dataset, and from a CSV."""

import re
from pathlib import Path

import pytest

import musc_ray
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.evaluate.labels import Label, find_labels
from musc_ray.evaluate.layouts import LAYOUTS, recognize

TREES = {
    "mvtec": {
        "bottle/train/good/000.png": ("good", None),
        "bottle/test/good/000.png": ("good", None),
        "bottle/test/broken_large/000.png": ("broken_large", "bottle/ground_truth/broken_large/000_mask.png"),
        "bottle/test/contamination/007.png": ("contamination", "bottle/ground_truth/contamination/007_mask.png"),
        "screw/test/good/001.png": ("good", None),
        "screw/test/thread_top/001.png": ("thread_top", None),  # its mask is missing
    },
    "mvtec2": {
        "can/train/good/000_regular.png": ("good", None),
        "can/validation/good/001_regular.png": ("good", None),
        "can/test_public/good/002_overexposed.png": ("good", None),
        "can/test_public/bad/003_regular.png": ("bad", "can/test_public/ground_truth/bad/003_regular_mask.png"),
        "can/test_private/000_regular.png": None,
        "can/test_private_mixed/000_mixed.png": None,
    },
    "visa": {
        "candle/Data/Images/Normal/0000.JPG": ("good", None),
        "candle/Data/Images/Anomaly/000.JPG": ("Anomaly", "candle/Data/Masks/Anomaly/000.png"),
    },
    "btad": {
        "01/train/ok/0000.bmp": ("good", None),
        "01/test/ok/0000.bmp": ("good", None),
        "01/test/ko/0001.bmp": ("ko", "01/ground_truth/ko/0001.png"),
        "03/test/ok/0000.bmp": ("good", None),
        "03/test/ko/0002.bmp": ("ko", "03/ground_truth/ko/0002.bmp"),
    },
    "3cad": {
        "Copper_Stator/train/good/000001.png": ("good", None),
        "Copper_Stator/test/good/000001.png": ("good", None),
        "Copper_Stator/test/scratch/000002.png": ("scratch", "Copper_Stator/ground_truth/scratch/000002.png"),
    },
    "folder": {
        "good/a.png": ("good", None),
        "Normal/b.png": ("good", None),
        "dent/c.png": ("dent", "masks/dent/c.png"),
        "hole/d.png": ("hole", "ground_truth/hole/d_mask.png"),
        "hole/e.png": ("hole", None),
    },
}


def write_tree(root: Path, tree: dict) -> list[str]:
    """Touch images and masks; returns the URIs of all files, as listing the root would give them."""
    files = [*tree, *(found[1] for found in tree.values() if found and found[1])]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [f"file://{root / name}" for name in files]


@pytest.mark.parametrize("name", TREES)
def test_labels_and_masks_of_each_layout(tmp_path, name):
    root = tmp_path / "a data set"
    uris = write_tree(root, TREES[name])
    expected = {}
    for path, found in TREES[name].items():
        if found is not None:
            mask = f"file://{root / found[1]}" if found[1] else None
            expected[f"file://{root / path}"] = Label(int(found[0] != "good"), found[0], mask)
    assert find_labels(name, uris).by_uri == expected
    assert recognize(uris) == ("mvtec" if name == "3cad" else name)  # the same folders
    assert find_labels("auto", uris).by_uri == expected


def test_the_preprocessed_visa_is_mvtec_with_other_mask_names(tmp_path):
    tree = {
        "candle/test/good/0001.JPG": ("good", None),
        "candle/test/bad/000.JPG": ("bad", "candle/ground_truth/bad/000.png"),
    }
    labels = find_labels("auto", write_tree(tmp_path, tree))
    assert labels.origin == "mvtec"
    assert labels.by_uri[f"file://{tmp_path}/candle/test/bad/000.JPG"].mask.endswith("ground_truth/bad/000.png")


def test_categories_and_splits():
    found = LAYOUTS["mvtec2"].describe("s3://bucket/ad2/can/test_public/bad/1.png")
    assert (found.category, found.split, found.label) == ("can", LAYOUTS["mvtec2"].test, 1)
    assert LAYOUTS["visa"].describe("/x/pcb1/Data/Images/Normal/1.JPG").category == "pcb1"
    assert LAYOUTS["mvtec"].describe("/x/bottle/ground_truth/test/cut/1.png") is None


@pytest.mark.parametrize("uris", [["file:///a/photos/1.png", "file:///a/photos/2.png"], ["file:///a/good/1.png"], []])
def test_paths_that_say_nothing_are_an_error_that_names_the_way_out(uris):
    with pytest.raises(SettingsError, match="a CSV with the columns uri, label"):
        find_labels("auto", uris)


def test_an_unknown_layout_and_one_that_fits_nothing():
    with pytest.raises(SettingsError, match="must be auto, mvtec2"):
        find_labels("mvtek", ["file:///a/good/1.png"])
    with pytest.raises(SettingsError, match="layout 'visa'"):
        find_labels("visa", ["file:///a/good/1.png"])


def test_a_csv_of_labels(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "uri,label,mask,defect,group\na b.png,0,ignored.png,,\ns3://x/c.png,1,m/c.png,dent,bolts\n/d.png,KO,,,\n"
    )
    assert find_labels(str(table), []).by_uri == {
        f"file://{tmp_path}/a b.png": Label(0, "good", None),
        "s3://x/c.png": Label(1, "dent", f"file://{tmp_path}/m/c.png", "bolts"),
        "file:///d.png": Label(1, "defective", None),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uri,mask\na.png,\n", "no column 'label'"),
        ("uri,label\na.png,2\n", "line 2: label must be 0"),
        ("uri,label\na.png,0\na.png,1\n", "line 3: a.png has two labels"),
        ("uri,label\n,1\n", "line 2: the uri is missing"),
        ("uri,label\na.png,1,dent\n", "Line 2 has 3 values"),
        ("", "is empty"),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(MuscRayError, match=words):
        find_labels(str(tmp_path / "labels.csv"), [])


@pytest.mark.parametrize(
    "content",
    [
        'uri,label,mask\n"two\nlines.png",1,m.png\nb.png,0,\n',
        '\ufeffuri;label;mask\r\n"two\nlines.png";1;m.png\r\n\r\nb.png;0;\r\n',
        ' uri \t Label \t MASK \n"two\nlines.png" \t 1 \t m.png \n\n b.png \t 0 \t \n\n',
        'uri , label , mask\n\n"two\nlines.png", Defective , m.png\n  b.png , OK ,\n',
    ],
)
def test_a_csv_as_people_write_it(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content.encode())
    assert find_labels(str(tmp_path / "labels.csv"), []).by_uri == {
        f"file://{tmp_path}/two\nlines.png": Label(1, "defective", f"file://{tmp_path}/m.png"),
        f"file://{tmp_path}/b.png": Label(0, "good", None),
    }


def test_labels_of_images_that_were_not_scored_are_named(tmp_path):
    (tmp_path / "labels.csv").write_text("uri,label\na.png,0\nb.png,1\n")
    labels = find_labels(str(tmp_path / "labels.csv"), [f"file://{tmp_path}/a.png", f"file://{tmp_path}/c.png"])
    assert [(each.kind, each.uri) for each in labels.problems] == [("NotScored", f"file://{tmp_path}/b.png")]


def test_a_csv_that_is_not_there(tmp_path):
    with pytest.raises(MuscRayError, match="There are no labels"):
        find_labels(str(tmp_path / "labels.csv"), [])


def test_nothing_that_scores_knows_of_labels():
    """No module but those of the evaluation imports `musc_ray.evaluate`, directly or through them."""
    root = Path(musc_ray.__file__).parent
    of_evaluation = {"evaluate", "evaluator", "pixel_metrics", "protocol", "pooled"}
    forbidden = re.compile(rf"musc_ray\.(evaluate|stages\.({'|'.join(of_evaluation)}))\b")
    scoring = [
        path
        for folder in ("core", "storage", "backbones", "stages", "report")
        for path in (root / folder).glob("*.py")
        if folder != "stages" or path.stem not in of_evaluation
    ]
    assert len(scoring) > 40
    assert not [path for path in scoring if forbidden.search(path.read_text())]

"""Masks of images wherever datasets and people put them, and masks that belong to no image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musc_ray.evaluate import mask_files
from musc_ray.evaluate.labels import Label, find_labels
from musc_ray.evaluate.layouts import LAYOUTS, recognize, without_ending
from musc_ray.evaluate.mask_files import find_masks

IMAGE = "bottle/test/dent/000.png"

PLACES = [
    (IMAGE, "bottle/ground_truth/dent/000_mask.png"),
    (IMAGE, "bottle/ground_truth/dent/000.png"),
    (IMAGE, "bottle/ground_truth/dent/000.bmp"),
    (IMAGE, "bottle/ground_truth/dent/000_mask.tiff"),
    (IMAGE, "bottle/ground_truth/dent/000_MASK.PNG"),
    (IMAGE, "bottle/Ground_Truth/Dent/000_label.BMP"),
    (IMAGE, "bottle/GroundTruth/dent/000_gt.png"),
    (IMAGE, "bottle/masks/dent/000_GT.jpg"),
    (IMAGE, "bottle/Masks/test/dent/000-mask.gif"),
    (IMAGE, "bottle/mask/000.png"),
    (IMAGE, "bottle/gt/dent/000.png"),
    (IMAGE, "bottle/labels/dent/000.png"),
    (IMAGE, "bottle/test/ground_truth/dent/000_mask.png"),
    (IMAGE, "bottle/test/dent/masks/000.png"),
    (IMAGE, "bottle/test/dent/000_mask.png"),
    ("bottle/test/dent/000.jpg", "bottle/test/dent/000_label.bmp"),
    ("bottle/test/dent/A.JPG", "bottle/ground_truth/dent/a.png"),
    ("bottle/test/dent/x_mask.png", "bottle/ground_truth/dent/x_mask.png"),
    ("bottle/test/dent/a.b c.png", "bottle/ground_truth/dent/a.b c_mask.png"),
    (IMAGE, None),
]
NO_MASKS_OF_IT = [
    "bottle/ground_truth/dent/0000_mask.png",
    "bottle/ground_truth/hole/000_mask.png",
    "bottle/ground_truth/dent/000_mask.txt",
    "bottle/ground_truth/dent/.000_mask.png",
    "bottle/ground_truth/dent/000mask.png",
    "cap/ground_truth/dent/000_mask.png",
]


def touch(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [f"file://{root / name}" for name in names]


@pytest.mark.parametrize(("image", "mask"), PLACES)
def test_masks_are_found(tmp_path, image, mask):
    (uri, *_) = touch(tmp_path, image, "bottle/test/good/000.png", *([mask] if mask else []))
    found = find_masks(LAYOUTS["mvtec"].describe_all([uri, f"file://{tmp_path}/bottle/test/good/000.png"]))
    assert found.by_image == ({uri: f"file://{tmp_path}/{mask}"} if mask else {})
    assert not found.without_image


@pytest.mark.parametrize("mask", NO_MASKS_OF_IT)
def test_masks_of_others(tmp_path, mask):
    (uri, other) = touch(tmp_path, IMAGE, mask)
    found = find_masks(LAYOUTS["mvtec"].describe_all([uri]))
    is_mask = mask.startswith("bottle") and mask.endswith(".png") and "/." not in mask
    assert found.by_image == {}
    assert found.without_image == ({other} if is_mask else frozenset())


def test_the_likelier_of_several_masks(tmp_path):
    names = ["000.png", "000_mask.png", "000_MASK.bmp", "A_mask.png", "a_mask.png"]
    touch(tmp_path, *(f"bottle/ground_truth/dent/{name}" for name in names))
    uris = touch(tmp_path, IMAGE, "bottle/test/dent/A.png", "bottle/test/dent/a.png")
    found = find_masks(LAYOUTS["mvtec"].describe_all(uris))
    assert [Path(found.by_image[uri]).name for uri in uris] == ["000_mask.png", "A_mask.png", "a_mask.png"]
    assert {Path(uri).name for uri in found.without_image} == {"000.png", "000_MASK.bmp"}


def test_a_mask_that_two_images_claim_is_nobodys(tmp_path):
    uris = touch(tmp_path, IMAGE, "bottle/test/hole/000.png", "bottle/test/hole/001.png", "bottle/test/good/001.png")
    (shared, own) = touch(tmp_path, "bottle/masks/000.png", "bottle/masks/001.png")
    found = find_masks(LAYOUTS["mvtec"].describe_all(uris))
    assert found.by_image == {uris[2]: own}
    assert found.without_image == {shared}


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    listed = []
    original = mask_files._list
    monkeypatch.setattr(mask_files, "_list", lambda uri: listed.append(uri) or original(uri))
    kinds = ("dent", "hole", "good")
    uris = touch(tmp_path, *(f"bottle/test/{kind}/{n:03d}.png" for kind in kinds for n in range(20)))
    touch(tmp_path, *(f"bottle/ground_truth/{kind}/{n:03d}_mask.png" for kind in kinds[:2] for n in range(20)))
    assert len(find_masks(LAYOUTS["mvtec"].describe_all(uris)).by_image) == 40
    assert len(listed) == len(set(listed)) <= 8


def test_masks_are_not_images_of_a_class(tmp_path):
    uris = touch(
        tmp_path, "good/a.png", "dent/b.png", "dent/b_mask.png", "masks/dent/b.png", "dent/GT/b.png", "Labels/b.png"
    )
    assert set(LAYOUTS["folder"].describe_all(uris)) == set(uris[:2])
    assert find_labels("auto", uris).masks == set(uris[2:])
    products = touch(tmp_path, "products/labels/good/a.png", "products/labels/dent/b.png", "products/caps/dent/b.png")
    assert set(LAYOUTS["folder"].describe_all(products)) == set(products)


@pytest.mark.parametrize(
    ("layout", "names", "missing", "orphan"),
    [
        (
            "ksdd",
            [("kos01/Part0.jpg", "kos01/Part0_label.bmp"), ("kos02/Part0.jpg", "kos02/Part0_label.bmp")],
            "kos02/Part1.jpg",
            "kos02/Part7_label.bmp",
        ),
        (
            "ksdd2",
            [("test/20000.png", "test/20000_GT.png"), ("test/20001.png", "test/20001_GT.png")],
            "train/10000.png",
            "test/29999_GT.png",
        ),
    ],
)
def test_kolektor_surface_defects_are_anomalous_where_the_mask_is_not_black(tmp_path, layout, names, missing, orphan):
    touch(tmp_path, missing, orphan, *(image for image, _ in names))
    for number, (_, mask) in enumerate(names):
        pixels = np.zeros((9, 7), np.uint8)
        pixels[3, 4] = number  # the second is anomalous
        Image.fromarray(pixels).save(tmp_path / mask)
    uris = [f"file://{tmp_path}/{name}" for pair in names for name in pair]
    uris += [f"file://{tmp_path}/{missing}", f"file://{tmp_path}/{orphan}"]
    assert recognize(uris) == layout
    labels = find_labels("auto", uris)
    assert (labels.origin, labels.mask_level) == (layout, 128)
    assert labels.by_uri == {uris[0]: Label(0, "good", None), uris[2]: Label(1, "defective", uris[3])}
    assert labels.masks == {uris[1], uris[3], uris[5]}
    assert sorted((each.kind, each.uri) for each in labels.problems) == [
        ("MaskMissing", uris[4]),
        ("MaskWithoutImage", uris[5]),
    ]


def test_a_mask_that_does_not_tell_leaves_its_image_out(tmp_path):
    uris = touch(tmp_path, "kos01/Part0.jpg", "kos01/Part1.jpg")
    touch(tmp_path, "kos01/Part0_label.bmp")
    Image.new("L", (3, 3)).save(tmp_path / "kos01" / "Part1_label.bmp")
    labels = find_labels("ksdd", uris)
    assert labels.by_uri == {uris[1]: Label(0, "good", None)}
    assert [(each.kind, each.uri.rpartition("/")[2]) for each in labels.problems] == [
        ("MaskUnreadable", "Part0_label.bmp")
    ]


@pytest.mark.parametrize(
    ("stem", "without"),
    [
        ("000_mask", "000"), ("000-GT", "000"), ("Part0_label", "Part0"), ("a_ground_truth", "a"), ("a b mask", "a b"),
        ("000", "000"), ("mask", "mask"), ("_mask", "_mask"), ("a_mask_1", "a_mask_1"), ("unmask", "unmask"),
        ("a_mask_mask", "a_mask"),
    ],
)  # fmt: skip
def test_endings_of_masks(stem, without):
    assert without_ending(stem) == without

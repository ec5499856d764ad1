"""What was decided of a group: the first to write decides, broken files are named, leftovers are found."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage.bases import (
    Compression,
    decide,
    forget_decision,
    read_compression,
    read_directions,
    unused_bases,
    write_directions,
)
from musc_ray.storage.paths import OutPaths

ID, GROUP, LAYERS = "f" * 16, "a/b", (5, 11)


def directions(seed: int = 0):
    generator = np.random.default_rng(seed)
    return {layer: generator.standard_normal((6, 2)).astype(np.float32) for layer in LAYERS}


@pytest.fixture
def out(tmp_path):
    return OutPaths.at(str(tmp_path))


def test_directions_come_back_and_their_hash_is_that_of_their_values(out):
    sha256 = write_directions(out, ID, GROUP, directions())
    assert write_directions(out, ID, GROUP, directions()) == sha256
    assert write_directions(out, ID, GROUP, directions(1)) != sha256
    found = read_directions(out, ID, GROUP, sha256, LAYERS)
    for layer, vectors in directions().items():
        np.testing.assert_array_equal(found[layer], vectors)


def test_the_first_of_many_decides_for_all_and_the_others_leave_files_to_collect(out):
    def run(seed: int) -> Compression:
        sha256 = write_directions(out, ID, GROUP, directions(seed))
        return decide(out, ID, GROUP, Compression(300, 2, 128, (0.5, 0.75), sha256))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(8)))
    assert len(set(found)) == 1
    assert read_compression(out, ID, GROUP) == found[0]
    assert found[0].outside == pytest.approx(0.375)
    assert len(unused_bases(out, out.features(ID, GROUP))) == 7
    read_directions(out, ID, GROUP, found[0].sha256, LAYERS)
    forget_decision(out, ID, GROUP)
    forget_decision(out, ID, GROUP)
    assert read_compression(out, ID, GROUP) is None
    assert list(out.fs.ls(out.features(ID, GROUP))) == []


def test_a_group_can_be_left_as_it_is(out):
    assert read_compression(out, ID, GROUP) is None
    assert decide(out, ID, GROUP, Compression(20)) == Compression(20) == read_compression(out, ID, GROUP)


@pytest.mark.parametrize("content", [{}, {"images": 3, "energy": 7}, {"images": 3, "energy": [], "channels": "many"},
                                     {"images": 3, "energy": [1], "channels": 4}, {"energy": [], "of": 1},
                                     {"images": 3, "energy": [1], "sha256": "a" * 64},
                                     {"images": 3, "energy": [1], "channels": 4, "sha256": "/" * 64}])  # fmt: skip
def test_a_broken_decision_is_named(out, tmp_path, content):
    decide(out, ID, GROUP, Compression(20))
    (path,) = tmp_path.rglob("_compression.json")
    path.write_text(json.dumps(content))
    with pytest.raises(MuscRayError, match=r"_compression\.json does not say how features are compressed"):
        read_compression(out, ID, GROUP)


def test_broken_and_missing_directions_are_one_sentence_with_a_way_out(out, tmp_path):
    sha256 = write_directions(out, ID, GROUP, directions())
    (path,) = tmp_path.rglob("_basis-*.npz")
    whole = path.read_bytes()
    sentence = r"is not the basis of group 'a/b' \(.*\): delete .*_compression\.json and run again"
    for content in (whole[:-30], whole[:100], b"", b"no archive", whole.replace(directions()[5].tobytes(), bytes(48))):
        path.write_bytes(content)
        with pytest.raises(MuscRayError, match=sentence) as error:
            read_directions(out, ID, GROUP, sha256, LAYERS)
        assert "pickle" not in str(error.value)  # NumPy's advice on what is not an archive
    path.unlink()
    with pytest.raises(MuscRayError, match=sentence):
        read_directions(out, ID, GROUP, sha256, LAYERS)

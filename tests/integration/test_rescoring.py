"""Every rescoring, on both executors, against the formulas in memory; whole jobs on generated features."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.dataset as ds
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.evaluate.pooled import pooled_scores
from musc_ray.scoring import scorer
from musc_ray.settings.loading import load_settings
from musc_ray.storage.paths import OutPaths
from tests.helpers import brute_force
from tests.helpers.generated import DEFAULTS, group_features, score_generated

EXACT = {"precision": "float32", "executor": "process", "threads": 1}
SPEC = {"images": 21, "groups": 2, "layers": 3, "shard_size": 6}
RESCORINGS = ("rscin", "rscon", "none")


def score(out: Path, rescoring: str, settings=None, **changes) -> dict[str, dict]:
    """Score generated images; returns rows of the scores table by image id."""
    spec = {**SPEC, **changes, "settings": {**EXACT, "rescoring": rescoring, **(settings or {})}}
    assert not score_generated(str(out), spec)["failed"]
    return rows_of(out)


def rows_of(out: Path) -> dict[str, dict]:
    return {row["image_id"]: row for row in ds.dataset(out / "runs/generated/scores").to_table().to_pylist()}


def features_of(**changes) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    """Ids, class tokens and tokens of the last layer but one, by group."""
    spec = {**DEFAULTS, **SPEC, **changes}
    found = {}
    for group in range(spec["groups"]):
        ids, class_tokens, layers = group_features(spec, group, range(spec["images"]))
        found[f"group-{group}"] = ids, class_tokens, layers[-2 if len(layers) > 1 else 0]
    return found


def salient(rows: list[dict], tokens: np.ndarray, grid=(4, 4), degrees=(1, 3, 5), aggregation="lnamd") -> np.ndarray:
    """Vectors of the patches with the largest scores, all degrees end to end: (N, D * C)."""
    most = [int(np.argmax(row["patch_map"])) for row in rows]
    if aggregation == "snamd":
        vectors = [brute_force.snamd(tokens, grid, degrees)]
    else:
        vectors = [brute_force.lnamd(tokens, grid, degree) for degree in degrees]
    return np.concatenate([of_degree[np.arange(len(rows)), most] for of_degree in vectors], axis=1)


def check(rows: dict[str, dict], rescoring: str, k_list=(1, 2, 3), aggregation="lnamd", **changes) -> None:
    """Compare scores with the formula over the raw scores and patch maps beside them, group by group."""
    grid = tuple({**DEFAULTS, **changes}["grid"])
    features = features_of(**changes)
    assert len(rows) == sum(len(ids) for ids, _, _ in features.values())
    for ids, class_tokens, tokens in features.values():
        own = [rows[image_id] for image_id in ids]
        raw, got = (np.array([row[name] for row in own]) for name in ("score_raw", "score"))
        if rescoring == "none":
            np.testing.assert_array_equal(got, raw)
            continue
        vectors = class_tokens
        if rescoring == "rscon":
            vectors = salient(own, tokens, grid, aggregation=aggregation)
        sizes = k_list if rescoring == "rscin" or 1 in k_list else (*k_list, 1)
        np.testing.assert_allclose(got, brute_force.rscin(raw, vectors, sizes), atol=2e-6)
        assert np.abs(got - (raw - raw.min()) / (raw.max() - raw.min())).max() > 1e-3 or len(ids) == 2


@pytest.fixture(scope="module")
def in_shards_of_six(tmp_path_factory) -> dict[str, Path]:
    """The archive by rescoring."""
    outs = {}
    for rescoring in RESCORINGS:
        outs[rescoring] = tmp_path_factory.mktemp(rescoring)
        score(outs[rescoring], rescoring)
    return outs


@pytest.mark.parametrize("rescoring", RESCORINGS)
def test_scores_are_those_of_the_formula(in_shards_of_six, rescoring):
    check(rows_of(in_shards_of_six[rescoring]), rescoring)


def test_ranks_follow_the_scores_and_similar_images_are_those_of_class_tokens_in_every_run(in_shards_of_six):
    tables = []
    for out in in_shards_of_six.values():
        by_group: dict[str, list] = {}
        for row in rows_of(out).values():
            by_group.setdefault(row["group"], []).append((row["rank"], -row["score"]))
        for found in by_group.values():
            assert [rank for rank, _ in sorted(found)] == list(range(1, 22))
            assert [score for _, score in sorted(found)] == sorted(score for _, score in found)
        table = ds.dataset(out / "runs/generated/neighbours").to_table().to_pylist()
        tables.append(sorted((row["image_id"], row["neighbours"], row["similarities"]) for row in table))
    assert tables[0] == tables[1] == tables[2]
    assert {len(neighbours) for _, neighbours, _ in tables[0]} == {2}


@pytest.mark.parametrize("rescoring", ["rscin", "rscon"])
@pytest.mark.parametrize("shard_size", [4, 30])
def test_shards_change_nothing(in_shards_of_six, tmp_path, rescoring, shard_size):
    before, after = rows_of(in_shards_of_six[rescoring]), score(tmp_path, rescoring, shard_size=shard_size)
    assert before.keys() == after.keys()
    for image_id, row in before.items():
        np.testing.assert_allclose(after[image_id]["score"], row["score"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rescoring", ["rscon", "none"])
def test_workers_and_executors_change_nothing(in_shards_of_six, shared_ray, tmp_path, rescoring):
    before = rows_of(in_shards_of_six[rescoring])
    after = score(tmp_path, rescoring, {"executor": "ray", "workers": 2})
    for image_id, row in before.items():
        np.testing.assert_allclose(after[image_id]["score"], row["score"], atol=1e-6)


@pytest.mark.parametrize("rescoring", RESCORINGS)
@pytest.mark.parametrize("images", [2, 3])
def test_few_images(tmp_path, rescoring, images):
    check(score(tmp_path, rescoring, images=images), rescoring, images=images)


@pytest.mark.parametrize("layers", [1, 2])
def test_few_layers(tmp_path, layers):
    check(score(tmp_path, "rscon", layers=layers), "rscon", layers=layers)


@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
def test_the_authors_neighbourhoods(tmp_path, aggregation):
    rows = score(tmp_path, "rscon", {"k_list": [7], "aggregation": aggregation})
    check(rows, "rscon", (7,), aggregation)


def test_what_lacks_its_features_is_done_again(in_shards_of_six, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(in_shards_of_six["rscon"], out)
    before, run_paths = rows_of(out), OutPaths.at(str(out)).run("generated")
    shutil.rmtree(run_paths.scores)
    Path(run_paths.salient("group-1", 2)).unlink()
    assert score(out, "rscon").keys() == before.keys()
    assert rows_of(out) == {
        image_id: {**row, "scored_at": rows_of(out)[image_id]["scored_at"]} for image_id, row in before.items()
    }


def test_patch_maps_are_written_after_the_features_that_belong_to_them(tmp_path, monkeypatch):
    """A kill between the two leaves features without maps, never maps that count as done without features."""
    run_paths = OutPaths.at(str(tmp_path)).run("generated")

    def killed(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(scorer, "write_patch_maps", killed)
        spec = {**SPEC, "settings": {**EXACT, "rescoring": "rscon"}}
        assert set(score_generated(str(tmp_path), spec)["failed"]) == {"group-0", "group-1"}
    assert Path(run_paths.salient("group-0", 0)).exists()
    assert not Path(run_paths.maps("group-0", 0)).exists()
    check(score(tmp_path, "rscon"), "rscon")


def test_the_features_are_of_the_maps_without_repeated_defects(tmp_path):
    changes = {"images": 40, "groups": 1, "grid": [8, 8], "channels": 24, "planted": 10, "shard_size": 15, "layers": 2}
    rows = score(tmp_path, "rscon", {"repeated_defects": True}, **changes)
    assert sum(row["defect_group"] == 1 for row in rows.values()) == 10
    check(rows, "rscon", **changes)


def made_run(settings) -> SimpleNamespace:
    """What pooling reads of a run.json."""
    return SimpleNamespace(
        run_id="generated",
        features_id="generated",
        settings=settings,
        resolved=SimpleNamespace(layers=(0, 1, 2)),
        image_size_of=lambda group: (56, 56),
    )


@pytest.mark.parametrize("rescoring", RESCORINGS)
def test_parts_of_a_category_are_rescored_together(in_shards_of_six, rescoring):
    out_paths, rows = OutPaths.at(str(in_shards_of_six[rescoring])), rows_of(in_shards_of_six[rescoring])
    settings = load_settings(None, {"rescoring": rescoring, "k_list": [1, 4]})
    run = made_run(settings)
    ids = sorted(rows, key=lambda image_id: image_id[::-1])[:30]
    raw = np.array([rows[image_id]["score_raw"] for image_id in ids], np.float32)
    found = pooled_scores(out_paths, run, ["group-0", "group-1"], ids, raw)
    vectors = {}
    for own, class_tokens, tokens in features_of().values():
        compared = class_tokens if rescoring == "rscin" else salient([rows[image_id] for image_id in own], tokens)
        vectors |= dict(zip(own, compared, strict=True))
    expected = raw
    if rescoring != "none":
        expected = brute_force.rscin(raw, np.stack([vectors[image_id] for image_id in ids]), (1, 4))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("rescoring", ["rscin", "rscon"])
def test_parts_without_their_features_are_refused(in_shards_of_six, rescoring):
    out_paths = OutPaths.at(str(in_shards_of_six[rescoring]))
    settings = load_settings(None, {"rescoring": rescoring})
    run = made_run(settings)
    with pytest.raises(MuscRayError, match="needs their features; some are missing"):
        pooled_scores(out_paths, run, ["group-0", "group-1"], ["f" * 32], np.zeros(1, np.float32))

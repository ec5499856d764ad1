"""A job that cannot work is refused before anything is started or downloaded for it."""

import pytest

from musc_ray import pipeline
from musc_ray.errors import MuscRayError
from musc_ray.features.workspace import check_start
from musc_ray.nightly.run import rescore_new
from musc_ray.pipeline import extract_archive, run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

REFUSED = {
    "source": ({"source": None}, "needs a source and an out"),
    "out": ({"out": None}, "needs a source and an out"),
    "backbone": ({"backbone": "dinov2-vits-14"}, "did you mean dinov2-vit-s-14"),
    "image size": ({"image_size": 225}, "try 224 or 238"),
    "layers": ({"layers": (3, 12)}, "layers 0 to 11"),
    "weights": ({"weights": "nowhere.safetensors"}, "no weights file at nowhere.safetensors"),
    "tag": ({"backbone": "timm:vit_small_patch14_dinov2"}, "add a tag, or give a file"),
    "group_by": ({"group_by": "("}, "not a valid regular expression"),
    "place": ({"source": "nowhere"}, "There is nothing at nowhere"),
    "files": ({"source": "empty"}, "No images found in empty"),
    "file": ({"out": "taken/below"}, "Cannot write to"),
}


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"a")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "taken").write_text("a file")
    return {"source": "photos", "out": "results", "backbone": "dinov2-vit-s-14"}


@pytest.mark.parametrize("start", [run_archive, extract_archive, rescore_new])
@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_at_the_start(given, monkeypatch, start, what):
    changed, sentence = REFUSED[what]
    for step in ("musc_ray.pipeline.open_executor", "musc_ray.nightly.run.open_executor"):
        monkeypatch.setattr(step, None)
    monkeypatch.setattr("musc_ray.backbones.weights.download_weights", None)
    with pytest.raises(MuscRayError, match=sentence):
        start(load_settings(None, given | changed), Progress(quiet=True))


@pytest.mark.parametrize("name", ["since", "window", "rescore_window"])
def test_settings_of_a_night_are_refused_at_the_start_of_a_run(given, monkeypatch, name):
    monkeypatch.setattr(pipeline, "open_executor", None)
    value = {"since": "2026-11-24", "window": "3d", "rescore_window": True}[name]
    with pytest.raises(MuscRayError, match="musc-ray rescore OUT"):
        run_archive(load_settings(None, given | {name: value}), Progress(quiet=True))


def test_what_may_work_passes(given):
    check_start(load_settings(None, given))
    check_start(load_settings(None, given | {"backbone": "timm:known.toitslibrary"}))

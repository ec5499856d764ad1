"""What the README shows works as shown."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from musc_ray.cli.verbs import app
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.settings.model import load_settings
from tests.pictures import solar_cells

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert found, f"the README has no {language} example"
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code):
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102, our own README


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_examples_are_settings(text, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    settings = load_settings(path)
    assert yaml.safe_load(text).keys() <= settings.model_dump().keys()


def test_shell_examples_run(tmp_path, monkeypatch, shared_ray, invoke):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in solar_cells(5):
        shutil.copy(path, tmp_path / "photos")
    labels = [f"photos/{path.name},{number % 2}" for number, path in enumerate((tmp_path / "photos").iterdir())]
    (tmp_path / "labels.csv").write_text("\n".join(["uri,label", *labels]))
    write_dinov2_weights(tmp_path / "dinov2_vit_s_14.safetensors")
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("musc-ray ")]
    verbs = {
        "run",
        "extract",
        "score",
        "rescore",
        "status",
        "plan",
        "evaluate",
        "heatmaps",
        "report",
        "publish",
        "runs",
        "gc",
    }
    assert {shlex.split(command)[1] for command in commands} == verbs
    for command in commands:
        result = invoke(*shlex.split(command)[1:])
        assert result.exit_code == 0, result.output


def test_every_verb_is_in_the_readme_or_the_makefile():
    text = README + (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert all(f"musc-ray {command.callback.__name__}" in text for command in app.registered_commands)

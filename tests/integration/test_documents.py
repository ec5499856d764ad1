"""What the documents show works as shown: commands run or say what they need; names, options and links exist."""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import chdir
from itertools import zip_longest
from pathlib import Path

import click
import pytest
import typer
import yaml
from click.testing import Result

from musc_ray.cli.app import app
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from tests.helpers.documents import LANGUAGES, NEEDS, ROOT, Document, documents
from tests.helpers.pictures import solar_cells

DOCUMENTS = documents()
README = DOCUMENTS[0]
MIN_BYTES, MAX_BYTES = 6_144, 8_192
VERBS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
RAN = [
    document
    for document in DOCUMENTS
    if any(b.need is None and b.language in ("sh", "python") for b in document.blocks)
]

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)


def test_the_readme_is_short():
    assert README.name == "README.md"
    assert MIN_BYTES <= len(README.path.read_bytes()) <= MAX_BYTES


@each_document
def test_blocks_say_their_language_and_what_they_need(document):
    for block in document.blocks:
        assert block.language in LANGUAGES
        assert block.need is None or block.need in NEEDS
        if block.language == "sql":
            assert block.need == "engine"
    assert document.text.count("\n```") + document.text.startswith("```") == 2 * len(document.blocks)


@each_document
def test_links_lead_to_files_and_headings(document):
    for target in document.links:
        path, _, anchor = target.partition("#")
        file = (document.path.parent / path).resolve() if path else document.path
        assert file.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in Document(file).anchors, f"{document.name}: {target}"


@each_document
def test_files_and_folders_that_are_named_exist(document):
    """Inline code with a slash whose first part is a folder of the repository, the package or the document's."""
    places = (ROOT, ROOT / "musc_ray", document.path.parent)
    for code in document.inline:
        if not re.fullmatch(r"\.?\w[\w.-]*/[\w./*-]*", code):
            continue
        roots = [place for place in places if (place / code.split("/")[0]).is_dir()]
        assert not roots or any(list(place.glob(code.rstrip("/"))) for place in roots), f"{document.name}: {code}"


@each_document
def test_commands_have_the_verbs_options_and_settings_that_are_shown(document):
    for command in document.commands("musc-ray"):
        _, verb, *arguments = shlex.split(command)
        if verb.startswith("-"):
            assert verb in ("--version", "--help", "-h"), f"{document.name}: {command}"
            continue
        assert verb in VERBS, f"{document.name}: {command}"
        options = {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
        for argument, value in zip_longest(arguments, arguments[1:], fillvalue=""):
            if argument.startswith("--"):
                assert argument.split("=")[0] in options | {"--help"}, f"{document.name}: {command}"
            if argument == "--set":
                assert value.split("=")[0] in (*Settings.model_fields, "KEY"), f"{document.name}: {command}"


@each_document
def test_jobs_and_scripts_that_are_shown_exist(document):
    """`ray job submit ... -- python jobs/x.py --config jobs/x.yaml`, `python tests/...`, `pytest tests/...`."""
    commands = [
        command
        for word in ("ray", "python", ".venv/bin/python", "sbatch", "kubectl")
        for command in document.commands(word)
    ]
    for path in re.findall(r"(?:jobs|cluster|tests)/[\w./-]+", "\n".join(commands)):
        assert (ROOT / path).exists(), f"{document.name}: {path}"


@each_document
def test_make_targets_that_are_shown_exist(document):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in document.commands("make"):
        assert command.split()[1] in targets, f"{document.name}: {command}"


@each_document
def test_yaml_examples_are_settings(document, tmp_path):
    for block in document.blocks:
        if block.language == "yaml" and block.need is None:
            path = tmp_path / "job.yaml"
            path.write_text(block.text)
            settings = load_settings(path)
            assert yaml.safe_load(block.text).keys() <= settings.model_dump().keys()


def test_every_verb_is_in_the_readme():
    shown = {command.split()[1] for command in README.commands("musc-ray")}
    assert set(VERBS) <= shown


@pytest.fixture(scope="module")
def results(tmp_path_factory, invoke) -> Path:
    """A folder with photos, labels and weights, in which the commands of README.md were run."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "photos").mkdir()
    labels = ["uri,label"]
    for number, cell in enumerate(solar_cells(5)):
        shutil.copy(cell, folder / "photos")
        labels.append(f"photos/{cell.name},{number % 2}")
    (folder / "labels.csv").write_text("\n".join(labels))
    write_dinov2_weights(folder / "dinov2_vit_s_14.safetensors")
    with chdir(folder):
        run_blocks(README, invoke)
    return folder


def run_blocks(document: Document, invoke: Callable[..., Result]) -> None:
    """Run the blocks that need nothing, in order, in the working directory."""
    for block in document.blocks:
        if block.need is None and block.language == "python":
            exec(compile(block.text, document.name, "exec"), {})  # noqa: S102, our own documents
        for command in block.lines if block.need is None and block.language == "sh" else ():
            program, *arguments = shlex.split(command, comments=True)
            assert program == "musc-ray", f"{document.name}: {command} has no test: say what it needs"
            result = invoke(*arguments)
            assert result.exit_code == 0, f"{document.name}: {command}\n{result.output}"


def test_the_readmes_examples_run(results):
    assert list((results / "results" / "runs").glob("*/run.json"))


TONIGHT = "musc_ray/nightly/README.md"
"""Before its examples new photos come in."""


@pytest.mark.slow
@pytest.mark.parametrize("document", RAN[1:], ids=lambda document: document.name)
def test_the_examples_of_the_other_documents_run(document, results, invoke, monkeypatch):
    monkeypatch.chdir(results)
    if document.name == TONIGHT:
        for cell in solar_cells(7)[5:]:
            shutil.copy(cell, "photos")
    run_blocks(document, invoke)


def test_files_for_the_forge_say_what_the_project_says():
    """CITATION.cff has what its format requires, the workflow runs .ci/run, hooks are tools of `make lint`."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= citation.keys()
    assert citation["license"] == "Apache-2.0"
    assert "version" not in citation  # musc_ray/__init__.py has it
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [step.get("run") for step in workflow["jobs"]["check"]["steps"]][-1] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text()
    assert all(hook["entry"].removeprefix(".venv/bin/").removesuffix(" --fix") in lint for hook in hooks)

"""What needs no model, no kernel and no Ray imports none of them: each would take seconds.

Commands run one after another in a process of their own, which says after each what is newly imported.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.pictures import write_pictures

FORBIDDEN = ("torch", "torchvision", "timm", "open_clip", "faiss", "numba", "ray", "pyarrow.dataset")

ANSWERS = {
    "--help": "",
    "--version": "",
    "run --help": "",
    "settings": "",
    "run": "needs a source and an out",
    "extract": "needs a source and an out",
    "score": "needs a source and an out",
    "rescore": "needs the out",
    "benchmark": "needs a dataset and an out",
    "plan": "needs a source",
    "status": "Missing argument 'OUT'",
    "runs": "Missing argument 'OUT'",
    "gc": "Missing argument 'OUT'",
    "report": "needs the out",
    "evaluate": "needs the out",
    "heatmaps": "Missing option '--format'",
    "check": "Missing argument 'OUT'",
    "check nowhere a.png": "There is no complete run in ",
    "publish": "needs the OUT",
    "verdicts": "Missing argument 'OUT'",
    "run photos out --shard-size x": "must be a whole number",
    "run photos out --backbone dinov2-vits-14": "did you mean dinov2-vit-s-14",
    "run photos out --backbone nothing": "Unknown backbone 'nothing'",
    "run photos out --image-size 225": "try 224 or 238",
    "run photos out --layers 3,99": "layers 0 to 23",
    "run photos out --weights no.safetensors": "no weights file at no.safetensors",
    "run photos out --group-by (": "not a valid regular expression",
    "run photos out --executor process --workers 2": "one worker",
    "run nowhere out": "There is nothing at nowhere",
    "extract nowhere out": "There is nothing at nowhere",
    "run empty out": "No images found in empty",
    "run photos file/out": "Cannot write to",
    "plan nowhere": "There is nothing at nowhere",
    "plan photos --gpu x": "--gpu must be one of",
    "plan photos --image-size 225": "try 224 or 238",
    "demo --images many": "--images must be",
    "status nowhere": "There is no run in nowhere",
    "runs nowhere": "There is no complete run in ",
    "gc nowhere": "There is no run in nowhere",
    "rescore nowhere": "There is no complete run in ",
    "report nowhere": "There is no complete run in ",
    "evaluate nowhere": "There is no complete run in ",
    "verdicts nowhere": "There is no complete run in ",
    "verdicts nowhere no.csv": "There are no verdicts at no.csv",
    "heatmaps nowhere --format png": "There is no complete run in ",
}
"""Commands that answer or refuse without work, and a part of the error; empty if they succeed."""

RUNNER = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from musc_ray.cli import main

forbidden, commands = json.loads(sys.argv[1])
for command in commands:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(command)
        except SystemExit as ended:
            code = ended.code
    found = [name for name in forbidden if name in sys.modules]
    forbidden = [name for name in forbidden if name not in found]
    print(json.dumps([code, found, out.getvalue(), err.getvalue()]), flush=True)
"""

IMPORTED = "import sys\nimport {}\nprint(*(name for name in sys.argv[1:] if name in sys.modules))"


def run(folder: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, list[str], str, str]]:
    """Run commands in one process; of each the exit code, the modules that it first imported, and what it printed."""
    given = [sys.executable, "-c", RUNNER, json.dumps([FORBIDDEN, commands])]
    done = subprocess.run(given, capture_output=True, text=True, cwd=folder, timeout=120)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(commands), done.stderr
    return found


@pytest.mark.parametrize(
    "module",
    [
        "musc_ray",
        "musc_ray.cli.app",
        "musc_ray.settings.loading",
        "musc_ray.pipeline",
        "musc_ray.nightly.run",
        "musc_ray.planning.plan",
        "musc_ray.evaluate.evaluation",
        "musc_ray.evaluate.benchmark",
        "musc_ray.report.build",
        "musc_ray.report.heatmaps",
        "musc_ray.lake.publish",
        "musc_ray.demo.run",
        "musc_ray.storage.garbage",
    ],
)
def test_what_a_command_or_the_driver_of_a_run_imports_is_light(module):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(module), *FORBIDDEN], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_the_list_above_would_notice():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format("musc_ray.core.rescoring, faiss"), *FORBIDDEN],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["faiss"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with images, one without, and a file."""
    folder = tmp_path_factory.mktemp("imports")
    write_pictures(folder / "photos", 3)
    (folder / "empty").mkdir()
    (folder / "file").write_text("a file")
    return folder


@pytest.fixture(scope="module")
def answered(place) -> dict[str, tuple[int, list[str], str, str]]:
    """What became of each of ANSWERS."""
    return dict(zip(ANSWERS, run(place, [command.split() for command in ANSWERS]), strict=True))


@pytest.mark.parametrize("command", ANSWERS)
def test_answers_and_refusals_import_nothing_heavy(answered, command):
    code, imported, _, error = answered[command]
    assert ANSWERS[command] in error
    assert code in (1, 2) if ANSWERS[command] else (code, error) == (0, "")
    assert imported == []


@pytest.fixture(scope="module")
def scored(place) -> list[str]:
    """The command of a complete run in the folder `done`."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    save_file(model.state_dict(), place / "weights.safetensors")
    given = ["run", "photos", "done", "--backbone", "dinov2-vit-s-14", "--weights", "weights.safetensors"]
    given += ["--image-size", "28", "--quiet"]
    program = [sys.executable, "-m", "musc_ray.cli", *given]
    subprocess.run(program, cwd=place, check=True, capture_output=True, timeout=280)
    return given


def test_a_complete_run_is_shown_looked_at_and_marked_without_anything_heavy(place, scored):
    again, other, status, runs, gc = run(
        place, [scored, [*scored, "--threshold", "0.5"], ["status", "done"], ["runs", "done"], ["gc", "done"]]
    )
    for code, imported, _, error in (again, other, status, runs, gc):
        assert (code, imported, error) == (0, [], "")
    assert "nothing to compute" in again[2]
    assert "score at least 0.5" in other[2]
    assert "run-" in status[2]
    assert "run-" in runs[2]

"""Fuzzing led by coverage, of the decoders and the settings parser."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import TIMES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", ["decoders", "settings"])
def test_whatever_reaches_new_code_is_an_image_or_settings_or_a_sentence(target, tmp_path, figures):
    pytest.importorskip("atheris", reason="atheris is not there for this system or Python")
    runs = 2000 * TIMES
    command = [sys.executable, "-m", "tests.fuzz.guided", target, str(runs)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert f"Done {runs} runs" in done.stderr
    figures["inputs fuzzed"] += runs

"""The command as a user meets it: help at 80 columns, version, exit codes, one-sentence errors, quick refusals."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
import typer
from typer.testing import CliRunner

import musc_ray
from musc_ray.cli import app
from musc_ray.cli.app import VERBS
from musc_ray.cli.errors import STOPPED, Stopped
from musc_ray.cli.options import default_text
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.settings.model import Settings

NAMES = [verb.__name__ for verbs in VERBS.values() for verb in verbs]
HEAVY = {"torch", "torchvision", "ray", "timm", "open_clip", "numba", "faiss", "pyarrow", "numpy", "sklearn", "scipy",
         "s3fs", "pyiceberg", "networkx", "PIL"}  # fmt: skip
ENDED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def invoke(*arguments, columns="80"):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": columns})


def on_terminal(*arguments, columns=80):
    """Run the command on a terminal of some width; return its exit code and its lines without control codes."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "musc_ray.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"})
    os.close(theirs)
    data = b""
    try:
        while part := os.read(ours, 65536):
            data += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return process.wait(timeout=60), ENDED.sub("", data.decode()).replace("\r", "").splitlines()


@pytest.mark.parametrize("verb", NAMES)
def test_each_help_has_an_example_and_fits_80_columns(verb):
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert result.stdout == invoke(verb, "-h").stdout
    assert f"Example: musc-ray {verb}" in " ".join(result.stdout.split())
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_shows_panels_and_defaults():
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", invoke("run", "--help").stdout).split())
    for panel in ("Features:", "Scores:", "Report:", "Machines:"):
        assert panel in words
    assert f"[default: {default_text('shard_size')}]" in words
    assert "(?P<group>...)" in words
    assert Settings.model_fields["workers"].description in words


def test_all_verbs_stand_in_the_help():
    shown = invoke("--help").stdout
    assert all(re.search(rf"^│ {verb} ", shown, re.MULTILINE) for verb in NAMES)
    assert all(panel in shown for panel in VERBS)


def test_the_version_stands_in_one_place():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"musc-ray {musc_ray.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "No such command 'nope': see `musc-ray --help`."),
        (["run", "--zzz"], "No such option: --zzz: see `musc-ray run --help`."),  # like no option
        (["status"], "Missing argument 'OUT': see `musc-ray status --help`."),
        (["run", "a", "b", "--shard-size", "x"], "Setting 'shard_size' must be a whole number of at least 1, not 'x'."),
        (["run", "--set", "no_such=1"], "Unknown setting 'no_such'"),
        (["rescore", "out", "--new", "--since", "2026-11-24"], "Give --new or --since, not both."),
        (["report"], "A report needs the out of a run: `musc-ray report OUT`."),
    ],
)
def test_usage_and_settings_errors_are_one_sentence_and_exit_code_2(arguments, sentence):
    result = CliRunner().invoke(app, arguments, prog_name="musc-ray")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {sentence}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (MuscRayError("There is no run."), 1, "Error: There is no run.\n"),
        (SettingsError("Not so."), 2, "Error: Not so.\n"),
        (KeyboardInterrupt(), 1, "Stopped: what is written is kept, and the same command resumes it.\n"),
        (ValueError("a\nb."), 1, "Error: ValueError: a b. MUSC_RAY_DEBUG=1 shows where.\n"),
        (OSError(28, "No space left on device"), 1, "Error: The storage failed ("),
    ],
)
def test_what_a_verb_raises_is_one_sentence(monkeypatch, error, code, sentence):
    def fails(out):
        raise error

    monkeypatch.setattr("musc_ray.cli.status.read_status", fails)
    result = invoke("status", "out")
    assert result.exit_code == code
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_stopped_command_ends_at_once_whatever_its_threads_do(number):
    program = f"""
import signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from musc_ray.cli import main, status

def work(out):
    print("begun")
    threading.Thread(target=time.sleep, args=[600]).start()
    pool = ThreadPoolExecutor(1)
    for _ in range(10):
        pool.submit(time.sleep, 600)
    signal.raise_signal(signal.{number})

status.read_status = work
main(["status", "out"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "begun\n", f"{STOPPED}\n")


def test_ctrl_c_before_a_verb_is_a_stop_too(monkeypatch):
    def interrupt(wanted):
        raise KeyboardInterrupt

    command = typer.main.get_command(app)
    (version,) = (option for option in command.params if option.name == "version")
    monkeypatch.setattr(version, "callback", lambda *_: interrupt(True))
    with pytest.raises(Stopped):
        command.main(["status", "out"])


def test_debugging_shows_where_an_unforeseen_error_is(monkeypatch):
    def fails(out):
        raise ValueError("a")

    monkeypatch.setattr("musc_ray.cli.status.read_status", fails)
    monkeypatch.setenv("MUSC_RAY_DEBUG", "1")
    assert isinstance(invoke("status", "out").exception, ValueError)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["settings"], 0),
        (["settings", "--json"], 0),
        (["run", "--help"], 0),
        (["run", "--nope"], 2),
        (["run", "--shard-size", "x"], 2),
        (["plan", "--set", "no_such=1"], 2),
        (["report", "out", "--set", "degrees=1"], 2),
    ],
)
def test_answers_without_work_import_nothing_heavy(arguments, code):
    program = (
        "import sys\nfrom musc_ray.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n    code = ended.code\n"
        "print('\\nimported', code, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    ended, *modules = done.stdout.rpartition("\nimported ")[2].split()
    assert int(ended) == code
    assert HEAVY.isdisjoint(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["settings"], ["gc", "--help"]])
def test_nothing_is_cut_on_a_terminal_of_80_columns(arguments):
    code, lines = on_terminal(*arguments)
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)

"""Whatever a settings file holds: settings, or one sentence and exit code 2; never a traceback, never without end."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from musc_ray.errors import SettingsError
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.settings.yaml_text import MAX_SETTINGS_BYTES
from tests.fuzz.conftest import examples
from tests.fuzz.mutation import mutated

ROOT = Path(__file__).parents[2]
SEEDS = (
    b"degrees: [1, 3]\ninterval: 0,0.3\nlake: {table: a.b, catalog: 'sqlite:///x', maps: false}\nsince: 2026-11-23\n",
    *(path.read_bytes() for path in sorted(ROOT.glob("jobs/*.yaml"))),
)
BOMB = "\n".join(
    ["a0: &a0 [1,1,1,1,1,1,1,1,1]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
)

HOSTILE = {
    "an alias bomb": f"{BOMB}\ndegrees: *a11\n",
    "an alias bomb in one value": "degrees: [&a [1,1], &b [*a,*a], &c [*b,*b], &d [*c,*c]]\n",
    "an alias of itself": "lake: &x {table: *x}\n",
    "a merge bomb": "lake: {<<: [{a: 1}, {b: 2}], <<: {c: 3}}\n",
    "a Python object": "source: !!python/object/apply:os.system ['touch pwned']\n",
    "a Python name": "source: !!python/name:os.system\n",
    "a local tag": "source: !env HOME\n",
    "binary": "source: !!binary aGVsbG8=\n",
    "a set": "degrees: !!set {1, 3}\n",
    "an ordered map": "degrees: !!omap [a: 1]\n",
    "keys twice": "seed: 1\nseed: 2\n",
    "keys twice, deeper": "lake: {table: a.b, table: c.d}\n",
    "keys twice, as numbers": "lake: {1: a, 1.0: b}\n",
    "lists as keys": "? [1, 2]\n: 3\n",
    "huge": "source: " + "x" * (MAX_SETTINGS_BYTES + 1),
    "deep lists": "degrees: " + "[" * 20_000,
    "deep mappings": "degrees: " + "{a: " * 5_000,
    "deep blocks": "".join(f"{' ' * n}a:\n" for n in range(600)),
    "many documents": "---\nseed: 1\n" * 100,
    "many keys": "".join(f"k{n}: 1\n" for n in range(10_000)),
    "a number of many digits": "seed: " + "9" * 100_000,
    "sexagesimal": "seed: " + ":".join(["59"] * 10_000),
    "a date that is none": "since: 2024-99-99\n",
    "control characters": "source: 'a\x00b'\n",
    "lone surrogates": 'source: "\\uD800"\n',
    "UTF-16": "seed: 1\n".encode("utf-16"),
    "a byte order mark in the middle": "seed: 1\n\ufeff: 2\n",
    "variables in variables": "source: ${env:${env:HOME}}\n",
    "many variables": "source: " + "${DATE}" * 10_000,
    "an open variable": "source: " + "${" * 50_000,
    "a percent directive": "%YAML 9.9\n%TAG ! tag:x,2000:\n---\nseed: 1\n",
    "only dots": "...\n...\n",
}


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as error:
        load_settings(path)
    return str(error.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_sentence(name, tmp_path, no_hang, figures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name]
    path = tmp_path / "job.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    figures["inputs fuzzed"] += 1
    if name == "many variables":
        with no_hang():
            assert load_settings(path).source.count("-") == 20_000
        return
    with no_hang():
        sentence = refusal(path)
    assert "\n" not in sentence
    assert len(sentence) < 2000
    assert not (tmp_path / "pwned").exists()


def test_what_is_refused_is_named(tmp_path):
    path = tmp_path / "job.yaml"
    for name, words in {
        "an alias bomb": "line 2: aliases",
        "keys twice, deeper": "'table' is repeated",
        "huge": "larger than 256 KiB",
        "a Python object": "could not determine a constructor",
    }.items():
        path.write_text(HOSTILE[name])
        assert words in refusal(path)


@pytest.mark.parametrize("verb", ["run", "extract", "score", "rescore", "plan", "evaluate", "publish"])
def test_every_verb_ends_with_exit_code_2(verb, tmp_path, figures):
    from typer.testing import CliRunner

    from musc_ray.cli.app import app

    (tmp_path / "job.yaml").write_text(HOSTILE["an alias bomb"])
    arguments = [verb, *(["out"] if verb == "publish" else []), "--config", str(tmp_path / "job.yaml")]
    result = CliRunner().invoke(app, arguments)
    figures["inputs fuzzed"] += 1
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: Settings file")
    assert result.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("settings") / "job.yaml"


@examples(400)
@given(content=mutated(SEEDS))
@example(content=b"lake: {<<: *x}")
def test_damaged_settings_files(content: bytes, path, no_hang, figures) -> None:
    figures["inputs fuzzed"] += 1
    path.write_bytes(content)
    with no_hang():
        only_settings_errors(lambda: load_settings(path))


TOKENS = st.sampled_from(
    ["&a ", "*a", "<<: ", "!!python/object:x ", "!!map ", "[", "]", "{", "}", ": ", ", ", "- ", "\n", "  ", "? ", "| ",
     "> ", "'", '"', "#", "%", "---\n", "...\n", "seed", "degrees", "lake", "table", "${DATE}", "${env:", "1", "1e999",
     ".nan", "0x", "2026-11-23", "null", "~", "\t", "\ufeff", "\x85"]
)  # fmt: skip


@examples(400)
@given(pieces=st.lists(TOKENS, max_size=30))
def test_yaml_out_of_its_own_pieces(pieces: list[str], path, no_hang, figures) -> None:
    figures["inputs fuzzed"] += 1
    text = "".join(pieces)
    path.write_text(text)
    with no_hang():
        only_settings_errors(lambda: load_settings(path))
        only_settings_errors(lambda: load_settings(None, None, [f"degrees={text}", f"lake={text}"]))


def only_settings_errors(work) -> None:
    try:
        assert isinstance(work(), Settings)
    except SettingsError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 2000  # noqa: PT017

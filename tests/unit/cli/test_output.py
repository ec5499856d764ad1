"""Tables that fit 80 columns on a terminal and are whole in pipes; one JSON document where it is asked for."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from musc_ray.cli import app, output, output_lists, output_metrics, output_plan, output_run
from musc_ray.cli.output import PIPE_WIDTH, bytes_text, plural
from musc_ray.cli.status import RunStatus
from musc_ray.cli.terminal import visible
from musc_ray.errors import MuscRayError
from musc_ray.scoring.result import RunResult
from musc_ray.settings.model import Settings
from musc_ray.storage.garbage import Garbage
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths
from tests.helpers import scored_run
from tests.helpers.manifests import run_record

LONG = "s3://plant-a-very-long-bucket-name/archive/2026/line-7/camera-3/front-side/lot-0815/pictures"
RUNS = [
    {
        "run_id": "run-0123456789ab", "scored_at": "2026-11-24T15:51:04.123456+00:00", "images": 1_234_567, "failed": 2,
        "groups": 3, "version": "0.1.0", "backbone": "dinov2", "weights_sha256": "0123456789abcdef" * 4,
        "features_id": "fedcba9876543210", "source": LONG, "source_snapshot": snapshot,
    }
    for snapshot in (None, 1234567890123456789)
]  # fmt: skip
STATUS = [
    RunStatus("run-0123456789ab", "2026-11-24T15:51:04+00:00", False, 1_000_000, 1, 8, 15_625, 0, 62_500, 0, 0,
              "2026-11-24T15:53:00+00:00", ["extract: 512/1,000,000 images (0 %)"]),
    RunStatus("a-name-that-a-person-gave-with-sixty-four-letters-or-nearly-so-1", "2026-11-24T15:51:04+00:00", True,
              10, 1, 1, 1, 4, 4, 10, 0, None, []),
]  # fmt: skip
GARBAGE = [Garbage(f"{LONG}/features/0123456789abcdef", "intermediate results of a complete run", 1_500_000_000)]


@pytest.fixture
def printed(monkeypatch):
    """Return what a function prints on a console of some width; None stands for a pipe."""

    def call(function, *arguments, width=None):
        stream = io.StringIO()
        console = Console(file=stream, width=width or PIPE_WIDTH)
        for module in (output, output_lists, output_metrics, output_plan):
            monkeypatch.setattr(module, "stdout_console", lambda: console)
        function(*arguments)
        return stream.getvalue()

    return call


TABLES = {
    "runs": (
        output_lists.print_runs,
        (RUNS,),
        [LONG, "run-0123456789ab", "fedcba9876543210", "0123456789ab", "1,234,567"],
    ),
    "status": (output_lists.print_status, (STATUS,), [run.run_id for run in STATUS]),
    "gc": (output_lists.print_garbage, (GARBAGE, False), [GARBAGE[0].path, "1.5 GB", "--delete removes it"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_a_terminal_and_lose_nothing(printed, name):
    function, arguments, parts = TABLES[name]
    text = printed(function, *arguments, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(part in text.replace("\n", "") for part in parts)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_whole_in_pipes(printed, name):
    function, arguments, parts = TABLES[name]
    text = printed(function, *arguments)
    assert all(part in text for part in parts)
    assert max(map(len, text.splitlines())) < 400


def test_a_pipe_is_no_terminal(capsys):
    output.stdout_console().print("x" * 500)
    assert capsys.readouterr().out == "x" * 500 + "\n"


def test_settings_as_one_document():
    result = CliRunner().invoke(app, ["settings", "--json"])
    document = json.loads(result.stdout)
    assert [item["name"] for item in document] == list(Settings.model_fields)
    (item,) = [item for item in document if item["name"] == "shard_size"]
    assert {key: item[key] for key in ("option", "type", "default", "affects")} == {
        "option": "--shard-size",
        "type": "a whole number of at least 1",
        "default": 64,
        "affects": ["extraction"],
    }
    assert "run" in item["verbs"]
    assert all(item["meaning"] and item["type"] and item["affects"] and item["verbs"] for item in document)


def test_settings_are_listed_with_all_that_the_document_says():
    text = " ".join(CliRunner().invoke(app, ["settings"]).stdout.split())
    for item in json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout):
        assert item["name"] in text
        assert item["meaning"] in text


def test_garbage_as_a_document():
    assert output_lists.garbage_document(GARBAGE, True) == {
        "deleted": True,
        "bytes": 1_500_000_000,
        "found": [{"path": GARBAGE[0].path, "why": GARBAGE[0].why, "bytes": 1_500_000_000}],
    }


def test_numbers_with_their_units():
    assert [bytes_text(count) for count in (0, 999, 1500, 2e15)] == ["0 B", "999 B", "1.5 kB", "2.0 PB"]
    assert (plural(1, "group"), plural(1200, "group")) == ("1 group", "1,200 groups")


def test_the_last_lines_of_a_run_are_where_its_results_are_and_the_time_of_the_whole_command(capsys, monkeypatch):
    monkeypatch.setattr(output, "seconds_since_start", lambda: 83.2)
    counts = {"images": 40, "scored": 40, "failed": 0, "listed": 40, "groups": 1}
    run = RunManifest.model_validate(run_record("run-a", counts=counts))
    result = RunResult(run, [], [], "results/scores", "results/report/index.html", computed=True)
    output_run.finish_run(result)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "40 images scored, 0 failed; 1 group",
        "Scores: results/scores",
        "Report: results/report/index.html",
        "Total time: 1 min 23 s",
    ]
    broken = replace(result, run=run.model_copy(update={"failed_groups": {"all": "Group 'all' has one image."}}))
    with pytest.raises(MuscRayError, match="has one image"):
        output_run.finish_run(broken)
    assert capsys.readouterr().out.splitlines()[-1] == "Total time: 1 min 23 s"


def test_the_last_line_of_an_extraction_is_its_time(capsys, monkeypatch):
    monkeypatch.setattr(output, "seconds_since_start", lambda: 8.1)
    figures = {"images": 40, "already_done": 2, "failed": 1, "skipped": 0, "seconds": 3.0, "notes": ("a [note]",)}
    output_run.print_extracted(figures)
    assert capsys.readouterr().out.splitlines() == [
        "40 images extracted, 2 already done, 1 failed, 0 skipped",
        "Note: a [note]",
        "Total time: 8.1 s",
    ]


def test_runs_as_one_document(tmp_path):
    run = {
        "features_id": "f",
        "resolved": {"grid": [4, 4], "backbone": "b", "weights_sha256": "w" * 64},
        "counts": {"images": 4, "scored": 4, "failed": 0, "groups": 1},
    }
    scored_run.write_run(OutPaths.at(str(tmp_path)), {"a": [f"{n}.png" for n in range(4)]}, grid=(4, 4), **run)
    result = CliRunner().invoke(app, ["runs", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.stderr
    (document,) = json.loads(result.stdout)
    assert set(document) == set(RUNS[0])
    assert (document["run_id"], document["images"], document["source"]) == (scored_run.RUN, 4, "generated")
    table = CliRunner().invoke(app, ["runs", str(tmp_path)]).stdout
    assert all(part in table for part in (scored_run.RUN, "generated", "w" * 12))


def test_status_as_one_document(monkeypatch):
    monkeypatch.setattr("musc_ray.cli.status.read_status", lambda out: STATUS)
    document = json.loads(CliRunner().invoke(app, ["status", "out", "--json"]).stdout)
    assert [run["run_id"] for run in document] == [run.run_id for run in STATUS]
    assert document[0]["stages"] == STATUS[0].stages
    assert (document[0]["complete"], document[0]["shards_done"], document[0]["shards"]) == (False, 8, 15_625)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b\u00fc.png", "a b\u00fc.png"),
        ("\x1b[31m.png", "\\x1b[31m.png"),
        ("two\nlines\t", "two\nlines\t"),
        ("\x07\udcff", "\\x07\\udcff"),
    ],
)
def test_names_are_no_commands_to_a_terminal(text, shown):
    assert visible(text) == shown

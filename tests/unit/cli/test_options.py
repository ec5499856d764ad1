"""Options are generated from the settings: all are reachable, each verb has those it can use, values arrive."""

import pytest
import typer
from typer.testing import CliRunner

from musc_ray.cli.app import VERBS
from musc_ray.cli.errors import ReadableErrors
from musc_ray.cli.options import (
    PANELS,
    choices,
    default_text,
    help_text,
    metavar,
    option_name,
    panel_of,
    with_settings,
)
from musc_ray.cli.verbs import Uses
from musc_ray.settings.affects import EFFECTS
from musc_ray.settings.model import Settings

USES = {verb.__name__: verb.uses for verbs in VERBS.values() for verb in verbs if hasattr(verb, "uses")}

SCORING = {
    "source", "features", "scores", "report", "publish", "output", "run", "extraction", "scoring", "runtime",
}  # fmt: skip
KINDS = {
    "run": SCORING,
    "extract": {"source", "features", "extraction", "runtime"},
    "score": SCORING,
    "rescore": SCORING | {"night"},
    "benchmark": SCORING | {"evaluate", "benchmark"},
    "demo": SCORING,
    "plan": SCORING,
    "report": {"report", "runtime"},
    "evaluate": {"evaluate", "runtime"},
    "heatmaps": {"runtime"},
    "publish": {"publish"},
}

OPTIONS = {
    "report": "report_images report_thumbnails threshold contamination run_id max_pixels max_image_mb",
    "evaluate": "labels pixels run_id max_pixels max_image_mb",
    "heatmaps": "run_id overwrite",
    "publish": "lake run_id",
}
"""The options of small verbs, but for those of the runtime."""

ON_RUNTIME = {"executor", "address", "workers", "threads", "max_worker_gb", "max_requests"}


@pytest.fixture
def given():
    """Run a verb that uses some settings; return what it was given, and click's result."""

    def call(uses, *arguments):
        seen = []
        app = typer.Typer(cls=ReadableErrors)
        app.command(name="verb")(with_settings(uses)(lambda settings: seen.append(settings)))
        app.callback()(lambda: None)
        result = CliRunner().invoke(app, ["verb", *arguments])
        return seen[0] if seen else None, result

    return call


def test_every_setting_is_reachable_from_a_verb():
    reached = {name for uses in USES.values() for name in (*uses.positional, *uses.options)}
    assert reached == set(Settings.model_fields)


def test_each_verb_takes_the_settings_of_its_kinds():
    assert {verb: set(uses.kinds) for verb, uses in USES.items()} == KINDS


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_options_of_small_verbs(verb):
    runtime = set() if verb == "publish" else ON_RUNTIME
    assert set(USES[verb].options) == {*OPTIONS[verb].split()} | runtime


def test_pasted_options_of_run_are_options_of_plan():
    run, plan = USES["run"], USES["plan"]
    assert set(run.options) <= set(plan.options)
    assert list(run.positional) == list(plan.positional)


@pytest.mark.parametrize("verb", sorted(set(KINDS) - {"publish"}))
def test_workers_and_address_work_on_every_verb_that_has_workers(verb):
    assert {"workers", "address"} <= set(USES[verb].options)


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        (["--shard-size", "7"], "shard_size", 7),
        (["--degrees", "1,5"], "degrees", (1, 5)),
        (["--interval", "0,0.5"], "interval", (0.0, 0.5)),
        (["--references", "all"], "references", "all"),
        (["--references", "64"], "references", 64),
        (["--image-size", "392,518"], "image_size", (392, 518)),
        (["--precision", "float32"], "precision", "float32"),
        (["--threshold", "0.5"], "threshold", 0.5),
        (["--run-id", "2026-11-24"], "run_id", "2026-11-24"),
        (["--repeated-defects"], "repeated_defects", True),
        (["--no-keep-features"], "keep_features", False),
    ],
)
def test_an_option_is_the_setting_of_its_name(given, option, name, value):
    settings, result = given(Uses(("features", "scores", "run", "output", "extraction", "report")), *option)
    assert result.exit_code == 0, result.stderr
    assert getattr(settings, name) == value
    assert settings.model_fields_set == {name}


def test_a_mapping_is_written_as_in_yaml(given):
    settings, _ = given(Uses(("publish",)), "--lake", "{table: plant.scores, maps: false}")
    assert (settings.lake.table, settings.lake.maps) == ("plant.scores", False)


def test_set_goes_over_options_and_these_over_the_file(given, tmp_path):
    (tmp_path / "job.yaml").write_text("seed: 1\nshard_size: 1\nbatch_size: 1\nkeep_features: false\n")
    options = ["--config", str(tmp_path / "job.yaml"), "--shard-size", "2", "--batch-size", "2", "--keep-features"]
    settings, result = given(Uses(("extraction", "output")), *options, "--set", "batch_size=3")
    assert result.exit_code == 0, result.stderr
    assert (settings.seed, settings.shard_size, settings.batch_size, settings.keep_features) == (1, 2, 3, True)


def test_a_flag_and_its_opposite_are_refused(given):
    _, result = given(Uses(("run",)), "--overwrite", "--no-overwrite")
    assert result.exit_code == 2
    assert result.stderr == "Error: Options --overwrite and --no-overwrite exclude each other.\n"


def test_a_refused_value_names_the_setting(given):
    _, result = given(Uses(("extraction",)), "--shard-size", "many")
    assert result.exit_code == 2
    assert result.stderr == "Error: Setting 'shard_size' must be a whole number of at least 1, not 'many'.\n"


def test_settings_without_an_effect_are_refused_where_a_run_has_them_already(given, tmp_path):
    uses = Uses(("report",), arguments={"out": None}, only=True)
    _, result = given(uses, "out", "--set", "degrees=1")
    assert result.exit_code == 2
    assert "Setting 'degrees' has no effect on" in result.stderr
    assert "report_images" in result.stderr
    (tmp_path / "job.yaml").write_text("degrees: 1\n")  # the file of the job may be given
    settings, result = given(uses, "out", "--config", str(tmp_path / "job.yaml"), "--report-images", "3")
    assert result.exit_code == 0, result.stderr
    assert settings.report_images == 3


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_option_says_what_it_takes_and_its_default(name):
    assert option_name(name) == f"--{name.replace('_', '-')}"
    assert metavar(name) in {"TEXT", "CHOICE", "N", "N|all", "N|none|auto", "X", "LIST", "MAPPING"}
    text = help_text(name).replace("\\", "")
    assert Settings.model_fields[name].description in text
    if (default := default_text(name)) not in (None, "true", "false"):
        assert f"[default: {default}]" in text
    assert len(choices(name)) < 2 or all(choice in text for choice in choices(name))


def test_panels_are_in_the_order_of_the_help():
    assert set(PANELS) == set(EFFECTS)
    for uses in USES.values():
        order = [list(PANELS).index(panel_of(name)) for name in uses.options]
        assert order == sorted(order)

"""Settings: where they come from, what they accept, and the sentence for everything that they do not."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from musc_ray.errors import SettingsError
from musc_ray.settings.lake import Lake
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.settings.values import settings_dict

Write = Callable[[str | bytes], Path]


def refusal(
    overrides: dict[str, object] | None = None, set_options: Sequence[str] = (), config: str | Path | None = None
) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, overrides, set_options)
    return str(caught.value)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_config(content: str | bytes) -> Path:
        path = tmp_path / "job.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_config


# --- defaults, types ---------------------------------------------------------------------------------------------


def test_defaults_are_the_method_of_the_paper() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.backbone == "clip-vit-l-14-336"
    assert (settings.degrees, settings.interval, settings.k_list) == ((1, 3, 5), (0.0, 0.3), (1, 2, 3))
    assert (settings.references, settings.precision, settings.model_precision) == ("all", "auto", "auto")
    assert (settings.aggregation, settings.vectors) == ("lnamd", 3)
    assert (settings.shard_size, settings.batch_size, settings.report_images) == (64, 8, 24)
    assert (settings.max_error_fraction, settings.max_pixels, settings.seed) == (0.05, 100_000_000, 0)
    assert settings.cache_mb == 1024
    assert (settings.compress, settings.feature_dtype, settings.device) == ("none", "auto", "auto")
    assert settings.keep_features is True
    assert settings.overwrite is False
    empty = ("source", "out", "weights", "image_size", "layers", "group_by", "address", "workers", "threads", "run_id")
    assert [getattr(settings, name) for name in empty] == [None] * len(empty)


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings(), "seed", 1)  # noqa: B010 - a plain assignment does not type-check


def test_a_model_built_directly_refuses_unknown_keys_and_hides_values() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"shard_sze": 64, "out": "s3://key:hunter2@bucket"})
    assert "hunter2" not in str(caught.value)
    assert "shard_sze" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "given_value", "expected"),
    [
        ("image_size", "518", 518),
        ("image_size", 518, 518),
        ("image_size", [392, 518], (392, 518)),
        ("image_size", "392, 518", (392, 518)),
        ("shard_size", "32", 32),
        ("degrees", "5,1,3", (1, 3, 5)),
        ("degrees", [5, "3"], (3, 5)),
        ("degrees", 3, (3,)),
        ("aggregation", "snamd", "snamd"),
        ("rescoring", "rscon", "rscon"),
        ("layers", "23,5", (5, 23)),
        ("layers", [0], (0,)),
        ("interval", "0,0.5", (0.0, 0.5)),
        ("intensity", "percentile", "percentile"),
        ("intensity", "0, 4095", (0.0, 4095.0)),
        ("intensity", [-1.5, 2], (-1.5, 2.0)),
        ("interval", [0.1, 1], (0.1, 1.0)),
        ("references", "128", 128),
        ("references", "all", "all"),
        ("k_list", "1,8,9", (1, 8, 9)),
        ("max_error_fraction", "0.1", 0.1),
        ("max_error_fraction", 1, 1.0),
        ("keep_features", "false", False),
        ("overwrite", "True", True),
        ("report_images", 0, 0),
        ("report_images", "1000", 1000),
        ("run_id", "2024-11-24_night.1", "2024-11-24_night.1"),
        ("weights", "s3://models/CLIP.SafeTensors", "s3://models/CLIP.SafeTensors"),
        ("weights", "https://host/w.pth?download=true", "https://host/w.pth?download=true"),
        ("model_precision", "bfloat16", "bfloat16"),
        ("precision", "int8", "int8"),
        ("threads", "2", 2),
        ("threshold", "0.5", 0.5),
        ("threshold", 1, 1.0),
        ("contamination", "0.05", 0.05),
    ],
)
def test_accepted_values(key: str, given_value: object, expected: object) -> None:
    value = getattr(load_settings(overrides={key: given_value}), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("threshold", -1, "Setting 'threshold' must be a number of at least 0, not -1: the nearest is 0."),
        ("contamination", 1, "Setting 'contamination' must be a number between 0 and 1, for example 0.05, not 1."),
        ("shard_size", "many", "Setting 'shard_size' must be a whole number of at least 1, not 'many'."),
        ("shard_size", 0, "Setting 'shard_size' must be a whole number of at least 1, not 0: the nearest is 1."),
        ("shard_size", True, "Setting 'shard_size' must be a whole number of at least 1, not true."),
        ("shard_size", 2.5, "Setting 'shard_size' must be a whole number of at least 1, not 2.5."),
        ("batch_size", "-3", "Setting 'batch_size' must be a whole number of at least 1, not '-3': the nearest is 1."),
        ("workers", 0, "Setting 'workers' must be a whole number of at least 1, not 0: the nearest is 1."),
        ("threads", "x", "Setting 'threads' must be a whole number of at least 1, not 'x'."),
        ("seed", -1, "Setting 'seed' must be a whole number of at least 0, not -1: the nearest is 0."),
        (
            "intensity",
            "bright",
            "Setting 'intensity' must be auto, full, percentile or two numbers, for example 0,4095, not 'bright'.",
        ),
        (
            "intensity",
            "4095,0",
            "Setting 'intensity' must go from a lower to a higher number, not 4095,0: did you mean 0,4095?",
        ),
        ("max_pixels", "1e8", "Setting 'max_pixels' must be a whole number of at least 1, not '1e8'."),
        (
            "report_images",
            5000,
            "Setting 'report_images' must be a whole number from 0 to 1000, not 5000: the nearest is 1000.",
        ),
        (
            "max_error_fraction",
            5,
            "Setting 'max_error_fraction' must be a number from 0 to 1, not 5: the nearest is 1.",
        ),
        (
            "max_error_fraction",
            float("nan"),
            "Setting 'max_error_fraction' must be a number from 0 to 1, not nan: the nearest is 0.",
        ),
        ("max_error_fraction", False, "Setting 'max_error_fraction' must be a number from 0 to 1, not false."),
        ("keep_features", "maybe", "Setting 'keep_features' must be true or false, not 'maybe'."),
        ("overwrite", 1, "Setting 'overwrite' must be true or false, not 1."),
        (
            "references",
            0,
            "Setting 'references' must be 'all' or a whole number of at least 1, not 0: the nearest is 1.",
        ),
        ("references", "some", "Setting 'references' must be 'all' or a whole number of at least 1, not 'some'."),
        (
            "degrees",
            [1, "x"],
            "Setting 'degrees' must be whole numbers of at least 1, for example 1,3,5, not [1, 'x'].",
        ),
        ("degrees", [], "Setting 'degrees' must be whole numbers of at least 1, for example 1,3,5, not []."),
        ("degrees", [-1], "Setting 'degrees' must be whole numbers of at least 1, for example 1,3,5, not [-1]."),
        ("degrees", [1, 2], "Setting 'degrees' must be odd, not 2 in [1, 2]: use 1 or 3."),
        ("degrees", [1, 35], "Setting 'degrees' holds 35, larger than 33: use smaller ones."),
        ("degrees", "1,3,3", "Setting 'degrees' repeats 3 in [1, 3, 3]: give it once."),
        ("aggregation", "snmad", "Setting aggregation 'snmad' is not one of lnamd, snamd: did you mean 'snamd'?"),
        ("k_list", [1, 1], "Setting 'k_list' repeats 1 in [1, 1]: give it once."),
        ("k_list", "0,1", "Setting 'k_list' must be whole numbers of at least 1, for example 1,3,5, not '0,1'."),
        ("layers", [5, 5], "Setting 'layers' repeats 5 in [5, 5]: give it once."),
        ("layers", [-1], "Setting 'layers' must be layer numbers from 0, for example 5,11,17,23, not [-1]."),
        ("layers", "", "Setting 'layers' must be layer numbers from 0, for example 5,11,17,23, not ''."),
        (
            "interval",
            [0.3, 0.0],
            "Setting 'interval' must go from a lower to a higher number, not 0.3,0.0: did you mean 0.0,0.3?",
        ),
        (
            "interval",
            [0.3, 0.3],
            "Setting 'interval' must go from a lower to a higher number, not 0.3,0.3: for example 0,0.3.",
        ),
        ("interval", [0, 30], "Setting 'interval' must be two numbers from 0 to 1, for example 0,0.3, not [0, 30]."),
        ("interval", 0.3, "Setting 'interval' must be two numbers from 0 to 1, for example 0,0.3, not 0.3."),
        (
            "interval",
            [0, 0.3, 1],
            "Setting 'interval' must be two numbers from 0 to 1, for example 0,0.3, not [0, 0.3, 1].",
        ),
        (
            "image_size",
            [518],
            "Setting 'image_size' must be a whole number of pixels or height,width, for example 518 or "
            "392,518, not [518].",
        ),
        (
            "image_size",
            "518x518",
            "Setting 'image_size' must be a whole number of pixels or height,width, for example 518 or "
            "392,518, not '518x518'.",
        ),
        (
            "precision",
            "float23",
            "Setting precision 'float23' is not one of auto, float32, bfloat16, float16, int8: did you mean 'float32'?",
        ),
        (
            "model_precision",
            "bf16",
            "Setting model_precision 'bf16' is not one of auto, float32, bfloat16, float16: did you mean 'bfloat16'?",
        ),
        ("model_precision", "int8", "Setting model_precision 'int8' is not one of auto, float32, bfloat16, float16."),
        ("precision", "???", "Setting precision '???' is not one of auto, float32, bfloat16, float16, int8."),
        ("precision", 32, "Setting precision 32 is not one of auto, float32, bfloat16, float16, int8."),
        (
            "feature_dtype",
            "int16",
            "Setting feature_dtype 'int16' is not one of auto, float16, int8: did you mean 'int8'?",
        ),
        ("compress", "all", "Setting 'compress' must be none, auto or a whole number of at least 1, not 'all'."),
        (
            "compress",
            0,
            "Setting 'compress' must be none, auto or a whole number of at least 1, not 0: the nearest is 1.",
        ),
        ("device", "CUDA:0", "Setting device 'CUDA:0' is not one of auto, cpu, cuda: did you mean 'cuda'?"),
        ("backbone", 7, "Setting 'backbone' must be text, not 7."),
        ("source", "  ", "Setting 'source' is empty: give it a value or leave it out."),
        ("source", "a\x1b[2Jb", "Setting 'source' holds control characters, take them out: 'a\\x1b[2Jb'."),
        ("run_id", 5, "Setting 'run_id' must be text (in quotes where YAML would read a number or a date), not 5."),
        (
            "run_id",
            "night run/5",
            "Setting 'run_id' must be up to 64 letters, digits, '.', '_' or '-', without a leading '.', not "
            "'night run/5': did you mean 'night-run-5'?",
        ),
        (
            "run_id",
            "..",
            "Setting 'run_id' must be up to 64 letters, digits, '.', '_' or '-', without a leading '.', not '..'.",
        ),
        ("weights", "clip.onnx", "Setting 'weights' must end in .safetensors, .pth, .pt, .bin, not 'clip.onnx'."),
        (
            "weights",
            "clip.safetensor",
            "Setting 'weights' must end in .safetensors, .pth, .pt, .bin, not 'clip.safetensor': did you mean"
            " '.safetensors'?",
        ),
        (
            "out",
            "https://host/out",
            "Setting 'out' cannot be on a web server ('https://host/out'): use a folder, s3://, gs://, az://.",
        ),
    ],
)
def test_refused_values(key: str, value: object, sentence: str) -> None:
    assert refusal({key: value}) == sentence


def test_long_names_and_values_stay_one_line() -> None:
    assert "'" + "a" * 64 + "'?" in refusal({"run_id": "a" * 65})
    for value in ("x" * 10_000, "1\n2", list(range(10_000)), 10**6000, {"a": {"b": 1}}):
        sentence = refusal({"shard_size": value})
        assert len(sentence) < 400
        assert "\n" not in sentence


# --- unknown keys, several problems -------------------------------------------------------------------------------


def test_unknown_settings_name_the_nearest() -> None:
    assert refusal({"shard_sze": 64}) == "Unknown setting 'shard_sze': did you mean 'shard_size'?"
    assert refusal({"shard-size": 64}) == "Unknown setting 'shard-size': did you mean 'shard_size'?"
    assert refusal(set_options=["Shard-Size=64"]) == "Unknown setting 'Shard-Size': did you mean 'shard_size'?"
    far = refusal({"zzz": 1})
    assert far.startswith("Unknown setting 'zzz': the settings are address, ")
    assert all(name in far for name in Settings.model_fields)


def test_several_problems_give_the_first_and_count_the_rest() -> None:
    sentence = refusal({"shard_size": "many", "shard_sze": 1, "interval": [1, 2, 3], "references": "x"})
    assert sentence == "Unknown setting 'shard_sze': did you mean 'shard_size'? (3 more problems after this one)"
    assert refusal({"shard_size": 0, "seed": -1}).endswith("the nearest is 1. (1 more problem after this one)")


# --- sources and their order --------------------------------------------------------------------------------------


def test_later_sources_win(write: Write) -> None:
    config = write("shard_size: 1\nbatch_size: 1\nseed: 1\n")
    settings = load_settings(config, {"batch_size": 2, "seed": 2, "threads": None}, ["seed=3"])
    assert (settings.shard_size, settings.batch_size, settings.seed, settings.threads) == (1, 2, 3, None)
    assert settings.k_list == (1, 2, 3)


def test_an_option_that_was_not_given_does_not_undo_the_file(write: Write) -> None:
    assert load_settings(write("device: cpu\n"), {"device": None}).device == "cpu"


def test_a_whole_settings_file(write: Write) -> None:
    config = write(
        "# nightly job\nsource: s3://plant/line-3/**/*.png\nout: s3://lake/musc\nimage_size: [392, 518]\n"
        "layers: [5, 11]\ndegrees: 1,3\nreferences: 128\nmax_error_fraction: 1.0e-2\nkeep_features: no\ngroup_by:\n"
    )
    settings = load_settings(str(config))
    assert (settings.source, settings.out) == ("s3://plant/line-3/**/*.png", "s3://lake/musc")
    assert (settings.image_size, settings.layers, settings.degrees) == ((392, 518), (5, 11), (1, 3))
    assert (settings.references, settings.max_error_fraction, settings.keep_features) == (128, 0.01, False)
    assert settings.group_by is None


@pytest.mark.parametrize("content", ["", "# seed: 3\n"])
def test_a_file_without_settings_gives_the_defaults(write: Write, content: str) -> None:
    assert load_settings(write(content)) == Settings()


def test_a_settings_file_in_object_storage() -> None:
    with fsspec.open("memory://jobs/job.yaml", "w") as file:
        file.write("seed: 7\n")
    assert load_settings("memory://jobs/job.yaml").seed == 7
    assert refusal(config="memory://jobs/other.yaml") == "There is no settings file 'memory://jobs/other.yaml'."


def test_unreadable_files(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert refusal(config=missing) == f"There is no settings file '{missing}'."
    assert refusal(config=tmp_path).startswith(f"Cannot read settings file '{tmp_path}': ")
    assert "nosuch" in refusal(config="nosuch://bucket/job.yaml")


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("seed: 1\nshard_size: [1, 2\nseed: 3\n", 3, "expected ',' or ']'"),
        ("seed: 1\n\tdevice: cpu\n", 2, "cannot start any token"),
        ("seed: 1\n---\nseed: 2\n", 2, "but found another document"),
        (b"seed: 1\nsource: \xff\xfe\n", 2, "not UTF-8"),
        ("seed: 1\nsource: a\x07b\n", 2, "not allowed"),
        ("seed: 1\nrun_id: 2024-99-99\n", 2, "put it in quotes"),
        ("seed: 1\noverwrite: !!bool maybe\n", 2, "put it in quotes"),
        ("seed: !!python/object/apply:os.getcwd []\n", 1, "could not determine a constructor"),
        ("seed: 1\ndegrees: &loop [*loop]\n", 2, "aliases (*name) are not allowed"),
    ],
)
def test_malformed_files_name_the_line(write: Write, content: str | bytes, line: int, reason: str) -> None:
    config = write(content)
    sentence = refusal(config=config)
    assert sentence.startswith(f"Settings file '{config}' is not valid YAML at line {line}: ")
    assert reason in sentence
    assert "\n" not in sentence


def test_deep_nesting_is_refused(write: Write) -> None:
    assert "nested too deeply" in refusal(config=write("degrees: " + "[" * 20_000))


def test_files_that_are_no_mapping_of_names(write: Write) -> None:
    for content in ("- seed\n- 1\n", "seed\n", "seed=1\n", "---\n"):
        assert refusal(config=write(content)).endswith("must hold 'key: value' lines.")
    assert refusal(config=write("seed: 1\n3: 4\n")).endswith("line 2: the key 3 is not a setting.")
    assert refusal(config=write("[a, b]: 4\n")).endswith("line 1: the key ['a', 'b'] is not a setting.")


def test_duplicate_keys_are_refused(write: Write) -> None:
    sentence = refusal(config=write("seed: 1\ndevice: cpu\n'seed': 1\n"))
    assert sentence.endswith("line 3: 'seed' is repeated, keep one.")


# --- --set --------------------------------------------------------------------------------------------------------


def test_set_options_are_yaml_or_comma_lists() -> None:
    options = ["degrees=1,3", "layers=[2, 5]", "interval=0.1,0.5", "overwrite=yes", "references=32", "image_size=224"]
    settings = load_settings(set_options=[*options, "precision=bfloat16", "k_list=4", "layers=null"])
    assert (settings.degrees, settings.layers, settings.interval) == ((1, 3), None, (0.1, 0.5))
    assert (settings.overwrite, settings.references, settings.image_size) == (True, 32, 224)
    assert (settings.precision, settings.k_list) == ("bfloat16", (4,))


def test_set_options_of_text_settings_are_taken_as_they_stand() -> None:
    options = ["source=*.png", "run_id=2024-11-24", "group_by=line=(\\d+)", "weights=a #1.pth", "address="]
    settings = load_settings(overrides={"address": "ray://head:10001"}, set_options=options)
    assert (settings.source, settings.run_id, settings.group_by) == ("*.png", "2024-11-24", "line=(\\d+)")
    assert (settings.weights, settings.address) == ("a #1.pth", None)
    assert load_settings(set_options=["run_id=null"]).run_id is None


def test_malformed_set_options() -> None:
    expected = "Option --set takes key=value, for example --set shard_size=64, not 'shard_size'."
    assert refusal(set_options=["shard_size"]) == expected
    assert "takes key=value" in refusal(set_options=["=64"])
    for option in ("degrees=[1", "seed=!!bool maybe", "seed=2024-99-99", "seed=*x"):
        assert refusal(set_options=[option]) == f"Option --set '{option}' is not a YAML value: put it in quotes."
    assert refusal(set_options=["seed={a: 1}"]).startswith("Setting 'seed' must be a whole number")


# --- combinations -------------------------------------------------------------------------------------------------


def test_float16_does_not_go_with_the_cpu() -> None:
    sentence = refusal({"precision": "float16", "device": "cpu"})
    assert "'precision' float16 and 'device' cpu" in sentence
    assert sentence.endswith("use bfloat16 or float32.")
    for device, precision in (("cuda", "float16"), ("auto", "float16"), ("cpu", "bfloat16"), ("cpu", "float32")):
        assert load_settings(overrides={"precision": precision, "device": device}).precision == precision


def test_refit_without_compression_is_refused() -> None:
    assert refusal({"refit": 2}) == (
        "Setting 'refit' 2 finds the directions of compressed features anew, but 'compress' is none: give compress "
        "auto or a number, or refit 0."
    )
    assert load_settings(overrides={"refit": 2, "compress": 96}).refit == 2
    assert load_settings(overrides={"refit": 0}).refit == 0


def test_a_radius_needs_a_matching_that_has_one() -> None:
    assert refusal({"radius": 3}) == (
        "Setting 'radius' 3 is for 'matching' near or auto, not anywhere: give one of them, or leave it out."
    )
    radii = [load_settings(overrides={"matching": matching}).radius for matching in ("anywhere", "near", "auto")]
    assert radii == [None, 2, None]
    assert load_settings(overrides={"matching": "auto", "radius": 3}).radius == 3
    assert load_settings(overrides={"matching": "anywhere", "radius": None}).radius is None


def test_threshold_and_contamination_exclude_each_other() -> None:
    assert refusal({"threshold": 0.5}, ["contamination=0.05"]) == (
        "Settings 'threshold' 0.5 and 'contamination' 0.05 exclude each other: give one of them, and set the other to "
        "null if a settings file has it."
    )
    assert load_settings(overrides={"threshold": 0.5}, set_options=["contamination=null"]).threshold == 0.5


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("/data", "/data"),
        ("/data/", "/data/x/.."),
        ("/data/out/images", "/data/out"),
        ("/data", "/data/out"),
        ("file:///data", "/data/out"),
        ("~", "~/out"),
        ("images", "./images/out"),
        (".", "out"),
        ("/data/*.png", "/data"),
        ("/data/**/*.png", "/data/out"),
        ("s3://bucket/images/", "s3://bucket/images"),
        ("s3://bucket", "s3://bucket/out"),
        ("s3a://bucket/out/x", "s3://bucket/out"),
        ("gs://bucket/a", "gcs://bucket/a/out"),
    ],
)
def test_source_and_out_must_not_overlap(source: str, out: str) -> None:
    sentence = refusal({"source": source, "out": out})
    assert sentence.startswith(f"Settings 'source' '{source}' and 'out' '{out}' overlap")
    assert sentence.endswith("choose an out outside the source.")


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("/data/images", "/data/out"),
        ("/data", "/data-out"),
        ("/data/20*/cam1/*.png", "/data/out"),
        ("/data/out/new.parquet", "/data/out"),
        ("s3://bucket/images", "s3://bucket/out"),
        ("s3://a/images", "s3://b/images"),
        ("s3://a/images", "gs://a/images/out"),
        ("/data", "s3://data"),
    ],
)
def test_source_and_out_apart(source: str, out: str) -> None:
    settings = load_settings(overrides={"source": source, "out": out})
    assert (settings.source, settings.out) == (source, out)


# --- secrets ------------------------------------------------------------------------------------------------------

SECRET = "hunter2/Xy+z"  # noqa: S105 - an invented one, to find it again
WITH_SECRET = [
    f"s3://AKIA0:{SECRET}@bucket/images.pth",
    f"s3://:{SECRET}@bucket/images.pth",
    f"s3://AKIA0%3A{SECRET}@bucket/images.pth".replace("@", "%40"),
    f"simplecache::s3://AKIA0:{SECRET}@bucket/images.pth",
    f"https://{SECRET.replace('/', '')}@host/w.pth",
    f"https://host/w.pth?token={SECRET}",
    f"https://host/w.pth?sv=1&sig={SECRET}",
    f"https://host/w.pth?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
    f"az://c/w.pth?AccountKey={SECRET}",
    f"/data/password={SECRET}/w.pth",
    f"aws_secret_access_key={SECRET}.pth",
]


@pytest.mark.parametrize("value", WITH_SECRET)
@pytest.mark.parametrize("key", ["source", "out", "weights", "address", "backbone", "run_id"])
def test_credentials_are_refused_and_not_repeated(key: str, value: object) -> None:
    sentence = refusal({key: value})
    assert sentence.startswith(f"Setting '{key}' carries credentials: ")
    assert "environment" in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize("value", WITH_SECRET)
def test_secrets_are_not_repeated_by_any_other_error(write: Write, value: str) -> None:
    sentences = [
        refusal({"shard_size": value}),
        refusal({"degrees": [1, value]}),
        refusal({"precision": value}),
        refusal({"interval": {value: value}}),
        refusal({value: 1}),
        refusal(set_options=[value]),
        refusal(set_options=[f"degrees=[{value}"]),
        refusal(set_options=[f"password=[{value}"]),
        refusal(config=value),
        refusal(config=write(f"source: [{value}\n")),
        refusal(config=write(f"? {value}\n: 1\n? {value}\n: 1\n")),
    ]
    assert not [sentence for sentence in sentences if "hunter2" in sentence]


def test_secrets_are_not_in_the_traceback_either(write: Write) -> None:
    config = write("source: s3://key:hunter2@bucket\ndegrees: [1\n")
    arguments: list[dict[str, Any]] = [{"config": config}, {"overrides": {"source": "s3://key:hunter2@bucket"}}]
    for given_arguments in arguments:
        with pytest.raises(SettingsError) as caught:
            load_settings(**given_arguments)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "value",
    [
        "s3://bucket/a@2x.png",
        "hf://datasets/user/name@main/images",
        "abfs://container@account.dfs.core.windows.net/images",
        "sftp://inspector@host/images",
        "hdfs://namenode:8020/images/a@b",
        "http://host:9000/images/a@b",
        "/data/tokens/key/secret/images",
        "s3://bucket/date=2024-11-24/cam=1",
    ],
)
def test_ordinary_uris_are_no_credentials(value: str) -> None:
    assert load_settings(overrides={"source": value}).source == value


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_settings_dict_is_json_and_reads_back() -> None:
    overrides = {"image_size": "392,518", "layers": [5, 11], "references": 64, "source": "/data", "interval": "0.1,1"}
    settings = load_settings(overrides=overrides)
    stored = json.loads(json.dumps(settings_dict(settings)))
    assert list(stored) == list(Settings.model_fields)
    assert (stored["image_size"], stored["interval"], stored["run_id"]) == ([392, 518], [0.1, 1.0], None)
    assert load_settings(overrides=stored) == settings


def test_importing_the_settings_is_light() -> None:
    heavy = "{'torch', 'timm', 'open_clip', 'ray', 'faiss', 'numba'}"
    code = f"import sys, musc_ray.settings.model, musc_ray.runtime.progress; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


# --- nothing but SettingsError ------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 9)
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=5)
    | st.sampled_from(["all", "auto", "cpu", "float16", "1,3", "0,0.3", "518", "/data", "s3://a/b", "w.pth", "*.png"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
keys = st.sampled_from(sorted(Settings.model_fields)) | st.text(max_size=12) | st.integers() | st.none()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "job.yaml"


def only_settings_errors(**arguments: Any) -> None:
    sentence = ""
    try:
        settings = load_settings(**arguments)
    except SettingsError as error:
        sentence = str(error)
        complete = bool(sentence)
    else:
        complete = load_settings(overrides=settings_dict(settings)) == settings
    assert complete
    assert "\n" not in sentence


@hypothesis_settings(max_examples=150, deadline=None)
@given(mapping=st.dictionaries(keys, values, max_size=4))
def test_arbitrary_yaml_mappings(scratch: Path, mapping: dict[object, object]) -> None:
    scratch.write_text(yaml.safe_dump(mapping, allow_unicode=True), encoding="utf-8")
    only_settings_errors(config=scratch)
    only_settings_errors(overrides={key: value for key, value in mapping.items() if isinstance(key, str)})


yaml_pieces = st.lists(
    st.sampled_from(
        ["seed", "source", "degrees", "0x_", "0b_", "1_", "2024-99-99", ".nan", "1e400", "-", "---", "\ufeff", "\x85"]
        + ["[", "]", "{", "}", "*a", "<<", "|", ">", "'", '"', "#", "~", "\\uD800", "\\0"]
        + ["\n", " ", "\t", ": ", "- ", "? ", "&a ", "%YAML 1.1", "!x "]
        + [f"!!{tag} " for tag in ("int", "float", "bool", "timestamp", "binary", "set", "omap", "str", "null")]
    ),
    max_size=12,
).map("".join)


@hypothesis_settings(max_examples=300, deadline=None)
@given(content=yaml_pieces.map(str.encode) | st.text(max_size=40).map(str.encode) | st.binary(max_size=40))
@example(b'source: "\\uD800"')
@example(b'device: "\\uD800"')
@example(b"seed: " + b"9" * 5000)
@example(b"seed: 0x" + b"f" * 5000)
@example(b"!!timestamp x: 1")
@example(b"seed: !!int ''")
@example(b"a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\ndegrees: [*c,*c]")
def test_arbitrary_files(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    only_settings_errors(config=scratch)


@hypothesis_settings(max_examples=200, deadline=None)
@given(option=st.text(max_size=20) | st.tuples(keys.map(str), yaml_pieces | st.text(max_size=12)).map("=".join))
def test_arbitrary_set_options(option: str) -> None:
    only_settings_errors(set_options=[option])


def test_lake_is_a_mapping_and_comes_back_from_its_json(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("lake: {catalog: 'sqlite:///${DATE}/lake.db', table: plant.scores, maps: false}\n")
    settings = load_settings(path)
    today = datetime.now(UTC).date().isoformat()
    assert settings.lake == Lake(catalog=f"sqlite:///{today}/lake.db", table="plant.scores", maps=False)
    assert load_settings(None, settings_dict(settings)) == settings


@pytest.mark.parametrize(
    "text", ["plant.scores", "{table: scores}", "{catalog: glue}", "{table: a.b, x: 1}", "{table: a.b, maps: 1}"]
)
def test_a_lake_that_is_none_is_one_sentence(text):
    with pytest.raises(SettingsError, match="Setting 'lake' must be a mapping of table and perhaps catalog"):
        load_settings(None, {}, [f"lake={text}"])

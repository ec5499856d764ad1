"""Fuzzing that is led by coverage (atheris): bytes that reach new lines of the code are changed further.

    python -m tests.fuzz.guided decoders|settings RUNS

Seeds are the real files of the other tests. Ends with exit code 0 after so many runs; whatever but an ImageError or a
SettingsError comes out ends it at once, with the bytes that did it in a file `crash-...` of the present folder.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "musc_ray", "yaml"], enable_loader_override=False):
    import yaml  # noqa: F401 - instrumented here
    from PIL import Image  # noqa: F401

    from musc_ray.errors import ImageError, SettingsError
    from musc_ray.settings.loading import load_settings
    from musc_ray.sources import decoding as images
    from musc_ray.storage.filesystem import open_filesystem

LONGEST_BYTES, LONGEST_SECONDS = 4096, 60


def decode(data: bytes) -> None:
    """Every way to look at an image."""
    for look in (
        lambda: images.decode_image(data, (14, 14), max_pixels=100_000),
        lambda: images.upright_size(data),
    ):
        try:
            look()
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017


def settings(data: bytes) -> None:
    """A settings file."""
    fs, path = open_filesystem("memory://guided/job.yaml")
    fs.pipe_file(path, data)
    try:
        load_settings("memory://guided/job.yaml")
    except SettingsError as error:
        assert "\n" not in str(error)  # noqa: PT017


def main() -> None:
    """Write the seeds and let atheris run."""
    target, runs = sys.argv[1:]
    warnings.simplefilter("ignore")
    if target == "decoders":
        from tests.fuzz.test_decoders import SEEDS
    else:
        from tests.fuzz.test_settings import HOSTILE, SEEDS

        SEEDS = (*SEEDS, *(text.encode() for text in HOSTILE.values() if isinstance(text, str)))
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seed for seed in SEEDS if len(seed) <= LONGEST_BYTES):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        options = [f"-runs={runs}", f"-max_len={LONGEST_BYTES}", f"-timeout={LONGEST_SECONDS}", "-seed=1"]
        atheris.Setup([sys.argv[0], *options, folder], {"decoders": decode, "settings": settings}[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()

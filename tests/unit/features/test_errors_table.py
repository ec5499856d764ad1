"""How many unreadable images a run takes, and what it says when there are more."""

from types import SimpleNamespace

import pytest

from musc_ray.errors import MuscRayError
from musc_ray.features.errors_table import check_errors, listing_errors
from musc_ray.settings.loading import load_settings
from musc_ray.sources.catalog import Catalog
from musc_ray.sources.images import Unreadable
from musc_ray.storage.paths import OutPaths


def context(images: int, unreadable: int = 0, **settings: object) -> SimpleNamespace:
    entries = [Unreadable(f"{n}.png", f"{n}.png", "all", "ImageError", f"Reason {n}.") for n in range(unreadable)]
    return SimpleNamespace(
        settings=load_settings(None, settings),
        groups={"all": SimpleNamespace(images=images)},
        catalog=Catalog(unreadable=entries),
        run_paths=OutPaths.at("/out").run("r"),
    )


def rows(count: int) -> list[dict[str, str]]:
    return listing_errors(context(0, count).catalog.unreadable)


@pytest.mark.parametrize(
    ("images", "errors", "settings", "passes"),
    [
        (30, 10, {}, True),
        (30, 11, {}, False),
        (199, 10, {}, True),
        (199, 11, {}, False),
        (200, 10, {}, True),
        (200, 11, {}, False),
        (1000, 50, {}, True),
        (1000, 51, {}, False),
        (30, 2, {"max_error_fraction": 0.01}, False),
        (30, 15, {"max_error_fraction": 0.5}, True),
        (30, 1, {"max_error_fraction": 0.0}, False),
    ],
)
def test_how_many_errors_pass(images, errors, settings, passes):
    of_run = context(images, **settings)
    if passes:
        check_errors(of_run, rows(errors))
        return
    with pytest.raises(MuscRayError, match=f"{errors} of {images:,} images cannot be read"):
        check_errors(of_run, rows(errors))


def test_a_failure_shows_the_first_five_with_their_reasons_and_the_option():
    with pytest.raises(MuscRayError) as error:
        check_errors(context(20, unreadable=20), rows(20))
    text = str(error.value)
    assert [f"\n  {n}.png: Reason {n}." in text for n in range(6)] == [True] * 5 + [False]
    assert "--max-error-fraction" in text
    assert "/out/runs/r/errors" in text
    assert "20 of 40 images" in text, "what could not be listed counts"

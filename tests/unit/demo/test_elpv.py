"""The demo's images: real cells with labels, a fixed sample."""

import pytest

from musc_ray.demo.elpv import mono_cells
from musc_ray.errors import SettingsError


def test_cells_are_a_fixed_sample_three_good_to_one_defective():
    cells = mono_cells(240)
    assert [cell.path for cell in cells] == [cell.path for cell in mono_cells(240)]
    assert len({cell.path for cell in cells}) == 240
    assert sum(cell.label for cell in cells) == 60
    assert all(cell.path.exists() for cell in cells)
    everything = mono_cells(None)
    assert len(everything) > 800
    assert set(cells) <= set(everything)


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_an_impossible_number_of_cells_is_refused(count):
    with pytest.raises(SettingsError, match="--images"):
        mono_cells(count)

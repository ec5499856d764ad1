"""Columns of the scores as arrays and back, without pandas."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from musc_ray.storage.scores import flags, numbers


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("sizes", [(), (0,), (5,), (3, 0, 7)])
def test_numbers_are_those_of_all_chunks(kind, sizes):
    parts = [np.random.default_rng(size).integers(-9, 9, size).astype(kind) for size in sizes]
    table = pa.table({"score": pa.chunked_array([pa.array(part) for part in parts], pa.from_numpy_dtype(kind))})
    found = numbers(table, "score")
    assert found.dtype == kind
    np.testing.assert_array_equal(found, np.concatenate([np.empty(0, kind), *parts]))
    np.testing.assert_array_equal(numbers(table.slice(2, 4), "score"), found[2:6])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000])
def test_flags_are_what_they_were(length):
    values = np.random.default_rng(length).random(length) < 0.5
    made = flags(values)
    made.validate(full=True)
    assert made.type == pa.bool_()
    assert made.to_pylist() == values.tolist()


@pytest.mark.filterwarnings("ignore:Exporting an unversioned DLPack")
def test_nulls_are_no_numbers():
    with pytest.raises(pa.ArrowTypeError):
        numbers(pa.table({"score": pa.array([1.0, None])}), "score")


def test_pandas_is_not_imported():
    pytest.importorskip("pandas")
    code = (
        "import sys\nimport numpy as np\nimport pyarrow as pa\nfrom musc_ray.storage.scores import flags, numbers\n"
        "table = pa.Table.from_arrays([flags(np.ones(3, bool)).cast(pa.int32())], names=['score'])\n"
        "assert numbers(table, 'score').tolist() == [1, 1, 1]\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0

"""Sentences and rows of what is wrong with labels and masks."""

import pyarrow.parquet as pq

from musc_ray.evaluate.problems import KINDS, Findings, Problem, write_problems
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import ERRORS


def test_a_sentence_names_the_first_five_and_says_where_all_are():
    missing = [Problem("MaskMissing", f"file:///{n:04d}.png", "", "a") for n in reversed(range(1200))]
    found = Findings(["A note."], [*missing, Problem("NoLabel", "file:///x.png", "")])
    assert found.sentences() == [
        "1 scored images have no label and are left out. First: file:///x.png; all are in errors.parquet.",
        "1,200 anomalous images have no mask; pixel metrics omit them. First: file:///0000.png, file:///0001.png, "
        "file:///0002.png, file:///0003.png, file:///0004.png; all are in errors.parquet.",
        "A note.",
    ]
    assert Findings().sentences() == []


def test_all_problems_are_rows_of_a_table_that_goes_when_there_are_none(tmp_path):
    run_paths = OutPaths.at(str(tmp_path)).run("made")
    (tmp_path / "runs" / "made" / "evaluation").mkdir(parents=True)
    problems = [Problem(kind, f"file:///{n}.png", kind.lower(), "g") for n, kind in enumerate(reversed(KINDS))]
    write_problems(run_paths, problems)
    table = pq.read_table(f"{run_paths.evaluation}/errors.parquet")
    assert table.schema.names == ERRORS.names
    assert table["error"].to_pylist() == list(KINDS)
    assert set(table["stage"].to_pylist()) == {"evaluate"}
    write_problems(run_paths, [])
    write_problems(run_paths, [])
    assert list((tmp_path / "runs" / "made" / "evaluation").iterdir()) == []


def test_a_problem_with_a_mask_names_its_image():
    assert Problem("MaskEmpty", "m.png", "It is black.", "g").of_image("i.png") == Problem(
        "MaskEmpty", "m.png", "It is black. It belongs to i.png.", "g"
    )

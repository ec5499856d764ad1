"""Known good images: how they enter the scores, by number, against mutual scores and nearest neighbours alone.

    python tests/benchmarks/bench_known_good.py [PART ...] [--sets SET ...] [--cache FOLDER]

Half of the good images of a set, in a random order, become known one after the other and are never evaluated; the other
good images and the defective ones are, the same ones for every number of known good images. Figures in percent, mean of
the seeds: image AUROC, image AP, AUPRO before rescoring, image AUROC and AP after it (among the evaluated images).

    all       every defective image is evaluated: 40 to 90 % of the images, the hardest case for mutual scores
    few       10 % of the evaluated images are defective, six seeds
    mixed     groups of two products, known good images of one of them alone
    variants  rules that lost, all defective images
    paper     the paper's constants, all defective images
    rescoring known good images as neighbours in rescoring
    last      AnomalyDINO's own layer, the last one, degree 1, mean of the top 1 % of patches
    search    fewer known good patches: random and greedy (PatchCore) coresets, FAISS: loss and speed

DINOv2 ViT-S/14 at 224 px. A folder of the shared data that is missing is left out. With `--cache` tokens and distances
are kept (2 GB for `all`).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from method_study.choices import PAPER, TUNED, Choice
from method_study.features import Features, Variant
from method_study.good_search import print_searches
from method_study.image_sets import ImageSet, available
from method_study.known_good import (
    MINIMUM,
    MUTUAL,
    NEAREST,
    PRODUCT,
    RULES,
    VARIANTS,
    Key,
    Row,
    Rule,
    distinct,
    rows_of,
    splits_of,
)
from method_study.known_good_neighbours import print_neighbours

SETS = ("magnetic_tile", "cookies", "kolektor_sdd", "glass", "cells", "more_cells", "poly_cells")
MIXED = (("more_cells", "poly_cells"), ("magnetic_tile", "cookies"))
SEEDS, SEEDS_OF_FEW, FEW = 3, 6, 0.1
JUDGED = (MINIMUM, NEAREST, PRODUCT)
Table = Mapping[Key, Row]


def _all(names: list[str], cache: Path) -> None:
    _print_tables(names, cache, TUNED, RULES, None, SEEDS)


def _few(names: list[str], cache: Path) -> None:
    _print_tables(names, cache, TUNED, RULES, FEW, SEEDS_OF_FEW)


def _variants(names: list[str], cache: Path) -> None:
    rules = {name: rule for name, rule in RULES.items() if name in JUDGED}
    _print_tables(names, cache, TUNED, {**rules, **VARIANTS}, None, SEEDS)


def _paper(names: list[str], cache: Path) -> None:
    _print_tables(names, cache, PAPER, RULES, None, SEEDS)


def _last(names: list[str], cache: Path) -> None:
    choice = replace(TUNED, layers=(11,), degrees=(1,))
    _print_tables(names, cache, choice, {NEAREST: RULES[NEAREST]}, None, SEEDS)


def _mixed(names: list[str], cache: Path) -> None:
    """Print groups of two products of which the first alone has known good images; 10 % of the images are defective."""
    for pair in MIXED:
        sets = available(pair)
        if len(sets) < 2:
            continue
        first, second = sets
        group = ImageSet(
            f"{first.name}+{second.name}",
            first.paths + second.paths,
            np.concatenate([first.labels, second.labels]),
            first.masks + second.masks,
        )
        good = np.flatnonzero(first.labels == 0)
        features = _extracted(group, TUNED, cache)
        splits = splits_of(group.labels, SEEDS, FEW, good)
        _print_table(group, rows_of(features, TUNED, splits, RULES))


def _rescoring(names: list[str], cache: Path) -> None:
    for images in map(distinct, available(names)):
        print_neighbours(_extracted(images, TUNED, cache), TUNED, splits_of(images.labels, SEEDS, None))


def _search(names: list[str], cache: Path) -> None:
    for images in map(distinct, available(names)):
        print_searches(_extracted(images, TUNED, cache), TUNED, splits_of(images.labels, 1, None)[0])


PARTS: dict[str, Callable[[list[str], Path], None]] = {
    "all": _all,
    "few": _few,
    "mixed": _mixed,
    "variants": _variants,
    "paper": _paper,
    "rescoring": _rescoring,
    "last": _last,
    "search": _search,
}


def _extracted(images: ImageSet, choice: Choice, cache: Path) -> Features:
    features = Features(images, Variant(choice.shape), cache)
    features.extract(sorted({*choice.layers, *TUNED.layers} if choice.shape == TUNED.shape else choice.layers))
    return features


def _print_tables(
    names: list[str], cache: Path, choice: Choice, rules: Mapping[str, Rule], share: float | None, seeds: int
) -> None:
    tables: dict[str, Table] = {}
    for images in map(distinct, available(names)):
        splits = splits_of(images.labels, seeds, share)
        tables[images.name] = _print_table(images, rows_of(_extracted(images, choice, cache), choice, splits, rules))
    _print_judgement(tables)


def _print_table(images: ImageSet, rows: Mapping[Key, list[Row]]) -> Table:
    table = {key: np.mean(found, axis=0) for key, found in rows.items()}
    print(f"\n{images.name}: image AUROC, image AP, AUPRO; after rescoring image AUROC, image AP")
    for (known, rule), row in table.items():
        print(f"{known!s:>4} {rule:32}" + "".join("       -" if np.isnan(x) else f"{x:8.2f}" for x in row), flush=True)
    return table


def _print_judgement(tables: Mapping[str, Table]) -> None:
    """Print by rule what it gains over zero-shot, and over nearest neighbours with all known: mean and worst set."""
    rules = dict.fromkeys(rule for table in tables.values() for _, rule in table if rule != MUTUAL)
    print("\nmean of sets (worst set) of differences in image AUROC, image AP, AUPRO, image AUROC after rescoring")
    for title, known, base in (
        ("4 known against mutual alone", 4, (0, MUTUAL)),
        ("16 known against mutual alone", 16, (0, MUTUAL)),
        ("all known against nearest alone", "all", ("all", NEAREST)),
    ):
        print(title)
        for rule in rules:
            found = [t[known, rule] - t[base] for t in tables.values() if (known, rule) in t and base in t]
            if found:
                print(
                    f"     {rule:32}" + "  ".join(_mean_and_worst(np.stack(found)[:, i]) for i in range(4)), flush=True
                )


def _mean_and_worst(differences: Row) -> str:
    known = differences[~np.isnan(differences)]
    return f"{known.mean():+6.2f} ({known.min():+6.2f})" if len(known) else f"{'-':>15}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *PARTS], help=", ".join(PARTS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--cache", type=Path, help="folder of tokens and distances")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts or PARTS:
            started = time.monotonic()
            print(f"\n# {part}", flush=True)
            PARTS[part](arguments.sets, arguments.cache or Path(folder))
            print(f"({part}: {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

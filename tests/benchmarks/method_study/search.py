"""Coordinate search over the constants, and leaving one set out."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np

from method_study.choices import PAPER, TUNED, VALUES, Choice, named, neighbours, runs_of_layers
from method_study.figures import Figures, mean_of_sets, row_of, wins_and_losses
from method_study.image_sets import CONFIRMING, JUDGED, ImageSet, available
from method_study.scored import Study

MIN_WINS = Fraction(2, 3)
"""Share that a constant has to win on, of the sets that it changes."""

START = replace(PAPER, shape="kept", rescoring="none")
"""Of the searches with the shape kept, which is decided beforehand; `shape_too` searches it like the others."""

SEARCHED = ("layers", "degrees", "interval", "weights")
JOINT_LAYERS = [layers for layers in runs_of_layers() if 3 <= len(layers) <= 5]
JOINT_DEGREES = ((1,), (1, 3), (1, 5), (1, 3, 5))
JOINT_INTERVALS = ((0.0, 0.1), (0.0, 0.2), (0.0, 0.3), (0.0, 0.5))
MAX_ROUNDS = 3
SHOWN = 5


def run_constants(study: Study) -> None:
    """Print what each constant does from the paper's and from the tuned choice, and the way between them."""
    judged, confirming = available(JUDGED), available(CONFIRMING)
    for base, title in ((PAPER, "paper"), (TUNED, "tuned")):
        print(f"\n## One constant changed, against {title} ({base}): points; sets that gain / lose, of {len(judged)}")
        for constant in VALUES:
            _print_constant(study, judged, base, constant)
    _print_steps(study, judged, confirming)


def run_left_out(study: Study) -> None:
    """Print what a search on all sets but one chooses, and the figures of that set against the paper's."""
    judged, confirming = available(JUDGED), available(CONFIRMING)
    searches = {
        "one constant at a time, shape too": partial(search_coordinates, shape_too=True),
        "one constant at a time": search_coordinates,
        "jointly": search_jointly,
    }
    for title, search in searches.items():
        print(f"\n## Searched {title} on the other sets: points of the set itself against paper")
        found: list[Figures] = []
        for out in judged:
            choice = search(study, [one for one in judged if one is not out])
            difference = study.figures(out, choice) - study.figures(out, PAPER)
            found.append(difference)
            print(f"{out.name:16}{row_of(difference)}   {choice}", flush=True)
        print(f"{'mean':16}{row_of(mean_of_sets(found))}")
        for one in judged:
            rest = [difference for other, difference in zip(judged, found, strict=True) if other is not one]
            print(f"  without {one.name:16}{row_of(mean_of_sets(rest))}")
        choice = search(study, judged)
        print(f"searched on all: {choice}")
        for one in (*judged, *confirming):
            print(f"{one.name:16}{row_of(study.figures(one, choice) - study.figures(one, PAPER))}", flush=True)


def _print_constant(study: Study, images: Sequence[ImageSet], base: Choice, constant: str) -> None:
    """Print the values of a constant that detect best, the one that `tuned` or `paper` has, and the worst."""
    rows = []
    for other in neighbours(base, constant):
        differences = differences_of(study, images, other, base)
        rows.append((mean_of_sets(differences), wins_and_losses(differences), other))
    rows.sort(key=lambda row: -np.nansum(row[0]))
    taken = {getattr(PAPER, constant), getattr(TUNED, constant)}
    for place, (mean, (wins, losses), other) in enumerate(rows, 1):
        if SHOWN < place < len(rows) and getattr(other, constant) not in taken:
            continue
        print(f"{named(constant, getattr(other, constant)):26}{row_of(mean)}   {wins}/{losses}", flush=True)


def _print_steps(study: Study, judged: Sequence[ImageSet], confirming: Sequence[ImageSet]) -> None:
    """Print `tuned` against `paper`, one constant after another, and each of them taken back."""
    changed = [constant for constant in VALUES if getattr(TUNED, constant) != getattr(PAPER, constant)]
    for title, images in (("judged", judged), ("confirming", confirming)):
        print(
            f"\n## From paper to tuned, step by step, on the {title} sets: points against paper; sets that gain / lose"
        )
        step = PAPER
        for constant in changed:
            step = replace(step, **{constant: getattr(TUNED, constant)})
            _print_row(study, images, step, PAPER, f"+ {named(constant, getattr(step, constant))}")
        print(f"Tuned without one of them, against tuned, on the {title} sets")
        for constant in changed:
            without = replace(TUNED, **{constant: getattr(PAPER, constant)})
            _print_row(study, images, without, TUNED, f"- {named(constant, getattr(without, constant))}")
        print(f"Paper, tuned, difference: figures of each set ({title})")
        for one in images:
            paper, tuned = study.figures(one, PAPER), study.figures(one, TUNED)
            print(f"{one.name:16}{row_of(paper, '')} |{row_of(tuned, '')} |{row_of(tuned - paper)}", flush=True)


def search_coordinates(study: Study, images: Sequence[ImageSet], shape_too: bool = False) -> Choice:
    """Search from the paper's constants, one at a time, until no change is accepted; rescoring comes last.

    A change is accepted if the sum of the mean figures rises and it wins on at least MIN_WINS of the sets it changes.
    """
    choice = replace(START, shape=PAPER.shape) if shape_too else START
    constants = ("shape", *SEARCHED) if shape_too else SEARCHED
    for _ in range(MAX_ROUNDS):
        before = choice
        for constant in constants:
            choice = _best(study, images, choice, neighbours(choice, constant))
        if choice == before:
            break
    return _best(study, images, choice, neighbours(choice, "rescoring"))


def search_jointly(study: Study, images: Sequence[ImageSet]) -> Choice:
    """Return the best of all runs of 3 to 5 layers with the usual degrees and intervals; rescoring comes last.

    It has to win on at least MIN_WINS of the sets, against the paper's constants.
    """
    every = [
        replace(START, layers=layers, degrees=degrees, interval=interval)
        for layers, degrees, interval in product(JOINT_LAYERS, JOINT_DEGREES, JOINT_INTERVALS)
    ]
    choice = _best(study, images, START, every)
    return _best(study, images, choice, neighbours(choice, "rescoring"))


def _best(study: Study, images: Sequence[ImageSet], base: Choice, others: Sequence[Choice]) -> Choice:
    best, largest = base, 0.0
    for other in others:
        differences = differences_of(study, images, other, base)
        gain = float(np.nansum(mean_of_sets(differences)))
        wins, losses = wins_and_losses(differences)
        if gain > largest and wins >= MIN_WINS * (wins + losses):
            best, largest = other, gain
    return best


def differences_of(study: Study, images: Sequence[ImageSet], choice: Choice, base: Choice) -> list[Figures]:
    """Return the figures of a choice less those of another, for each set."""
    return [study.figures(one, choice) - study.figures(one, base) for one in images]


def _print_row(study: Study, images: Sequence[ImageSet], choice: Choice, base: Choice, title: str) -> None:
    differences = differences_of(study, images, choice, base)
    wins, losses = wins_and_losses(differences)
    print(f"{title:26}{row_of(mean_of_sets(differences))}   {wins}/{losses}", flush=True)

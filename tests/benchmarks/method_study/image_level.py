"""Image scores and rescoring."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from method_study.choices import PAPER, TUNED, VALUES, Choice
from method_study.figures import Figures
from method_study.image_scores import SCORES
from method_study.image_sets import CONFIRMING, JUDGED, ImageSet, available
from method_study.scored import Study
from method_study.tables import print_comparison


def run_scores(study: Study) -> None:
    """Print image scores of maps against the maximum, before rescoring."""
    for title, choice in (("paper", PAPER), ("tuned", TUNED)):
        ways = {score: partial(_figures, study, replace(choice, rescoring="none", score=score)) for score in SCORES}
        _print_both(f"Image scores, {title}", ways, "max")


def run_rescoring(study: Study) -> None:
    """Print ways of rescoring against none."""
    for title, choice in (("paper", PAPER), ("tuned", TUNED)):
        ways = {
            str(rescoring): partial(_figures, study, replace(choice, rescoring=str(rescoring)))
            for rescoring in (*VALUES["rescoring"], "rscin 1,7", "rscon 1,2", "rscon 1,3", "rscon 1,2,3,5")
        }
        _print_both(f"Rescoring, {title}", ways, "none")


def _figures(study: Study, choice: Choice, images: ImageSet) -> Figures:
    return study.figures(images, choice)


def _print_both(title: str, ways: dict[str, Callable[[ImageSet], Figures]], base: str) -> None:
    for names in (JUDGED, CONFIRMING):
        sets = [one for one in available(names) if one.has_image_metrics]
        print_comparison(title, sets, ways, base)

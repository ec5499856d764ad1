"""Find defects in large archives of unlabeled product images: images of one product score each other (MuSc).

The public Python API is `__all__`: `score_features` and `rescore` work on arrays, without Ray and without files;
`check` scores single images against what a run left. Whole archives are scored by the command `musc-ray`. Everything
else in this package may change in any release; see `.github/CONTRIBUTING.md`, "Public API".
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
"""The version; pyproject.toml and the command line read it from here."""

__all__ = ["score_features", "rescore", "check", "__version__"]

if TYPE_CHECKING:
    from musc_ray.checking.check import check
    from musc_ray.core.rscin import rscin as rescore
    from musc_ray.core.score_features import score_features


def __getattr__(name: str) -> Any:
    """Import torch and faiss only when a function that needs them is used, so that `musc-ray --help` stays fast."""
    if name == "score_features":
        from musc_ray.core.score_features import score_features

        return score_features
    if name == "rescore":
        from musc_ray.core.rscin import rscin

        return rscin
    if name == "check":
        from musc_ray.checking.check import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

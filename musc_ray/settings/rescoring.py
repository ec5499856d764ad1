"""What a run's rescoring is called where results are shown."""

from musc_ray.settings.model import Settings

NAMES = {"rscin": "RsCIN", "rscon": "RsCon"}


def rescoring_text(settings: Settings) -> str:
    """Return the rescoring of a run with its k_list, or that there is none, as in "RsCIN (k_list 1,2,3)"."""
    name = NAMES.get(settings.rescoring)
    return "none (score is score_raw)" if name is None else f"{name} (k_list {','.join(map(str, settings.k_list))})"

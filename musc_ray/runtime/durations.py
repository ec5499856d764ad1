"""Durations as text, for progress, plans and reports."""


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: 0.42 s, 8.1 s, 3 min 20 s, 2 h 5 min, 12 d 3 h."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if (whole := round(seconds)) < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if (minutes := round(seconds / 60)) < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24:,} d {hours % 24} h"

"""Settings by what they affect, as values of ids, and as JSON."""

from musc_ray.settings.affects import NO_OLDER, Effect, affects_of
from musc_ray.settings.model import Settings


def settings_affecting(*effects: Effect) -> tuple[str, ...]:
    """Return the names of the settings that affect any of `effects`, in the order of the model."""
    return tuple(name for name, field in Settings.model_fields.items() if set(effects) & set(affects_of(field).effects))


def identity_values(settings: Settings, effect: Effect) -> dict[str, object]:
    """Return the values of the settings that affect `effect` by name, as they enter an id; see `Affects`."""
    values = {name: getattr(settings, name) for name in settings_affecting(effect)}
    marks = {name: affects_of(Settings.model_fields[name]) for name in values}
    return {
        name: value
        for name, value in values.items()
        if marks[name].in_ids and (marks[name].older is NO_OLDER or value != marks[name].older)
    }


def settings_dict(settings: Settings) -> dict[str, object]:
    """Return the settings as JSON-ready values, lists for tuples; `load_settings(overrides=...)` reads them back."""
    return settings.model_dump(mode="json")

"""Parse settings files: plain YAML values only, without aliases, tags that run code, or repeated keys.

Errors are raised `from None`: PyYAML's own quote the file, which may hold a secret.
"""

from collections.abc import Hashable
from typing import Any

import yaml

from musc_ray.errors import SettingsError
from musc_ray.settings.credentials import has_credentials
from musc_ray.settings.messages import shown

MAX_SETTINGS_BYTES = 2**18
"""Maximum size of a settings file; all settings with their descriptions take a twentieth of it."""

YAML_FAULTS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
"""Errors that PyYAML raises beside its own, for values such as `2024-99-99` or `!!bool maybe`."""

VALUE_FAULTS = (yaml.YAMLError, *YAML_FAULTS)
"""All errors of `parse_value`."""


class SettingsLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, whose copies of copies fill any memory, and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that is given twice: PyYAML would take the last one."""
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{shown(key)} is repeated", key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


def parse_value(text: str) -> object:
    """Parse a single YAML value.

    Raises:
        one of VALUE_FAULTS: not a value.
    """
    loader = SettingsLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def parse_settings(content: bytes, config: str) -> dict[str, object]:
    """Parse the settings of a YAML file.

    Args:
        content: bytes of the file.
        config: name of the file, for errors.

    Raises:
        SettingsError: too large, not UTF-8, not YAML, or not `key: value` lines; names the line if known.
    """
    if len(content) > MAX_SETTINGS_BYTES:
        raise SettingsError(f"Settings file {shown(config)} is larger than {MAX_SETTINGS_BYTES // 1024} KiB.")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _malformed(config, content.count(b"\n", 0, error.start) + 1, "it is not UTF-8 text") from None
    line = 1
    given: dict[str, object] = {}
    try:
        loader = SettingsLoader(text)
        root = loader.get_single_node()
        if root is None:  # empty, or comments only
            return given
        if not isinstance(root, yaml.MappingNode):
            raise SettingsError(f"Settings file {shown(config)} must hold 'key: value' lines.")
        for key_node, value_node in root.value:
            line = key_node.start_mark.line + 1
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _not_a_setting(config, line, key)
            if key in given:
                raise SettingsError(f"Settings file {shown(config)}, line {line}: {shown(key)} is repeated, keep one.")
            given[key] = loader.construct_object(value_node, deep=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _malformed(config, line if mark is None else mark.line + 1, error.problem or error.context) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _malformed(config, line, f"the character {error.character!r} is not allowed") from None
    except YAML_FAULTS as error:
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else "the value is not what it looks like; put it in quotes"
        raise _malformed(config, line, reason) from None
    return given


def _not_a_setting(config: str, line: int, key: object) -> SettingsError:
    return SettingsError(f"Settings file {shown(config)}, line {line}: the key {shown(key)} is not a setting.")


def _malformed(config: str, line: int, reason: str | None) -> SettingsError:
    reason = "" if reason is None or has_credentials(reason) else f": {' '.join(reason.split())}"
    return SettingsError(f"Settings file {shown(config)} is not valid YAML at line {line}{reason}.")

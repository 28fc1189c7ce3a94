"""The settings of a call: a config, or one by one."""

from dataclasses import fields
from typing import Any

from ..errors import UserError
from . import PruningConfig
from .values import did_you_mean


def config_of(config: PruningConfig | None, settings: dict[str, Any]) -> PruningConfig:
    """Return the settings of a run, given as a config or one by one.

    Raises:
        UserError: they are given both ways, or a setting is unknown or has a wrong value.
    """
    if config is None:
        known = [field.name for field in fields(PruningConfig)]
        for name in settings.keys() - known:
            close = did_you_mean(name, known)
            raise UserError(f"{name}: expected a setting of PruningConfig{close}")
        return PruningConfig(**settings)
    if settings:
        names = ", ".join(settings)
        raise UserError(f"expected a config or settings, found both: put {names} into the config")
    return config

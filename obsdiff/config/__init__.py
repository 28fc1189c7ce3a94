"""PruningConfig: what a run is asked for, checked when it is made."""

from dataclasses import dataclass

from .choices import DEFAULTS, PRESETS, SIZE_TARGETS, one_of, wildcards
from .rules import check_settings
from .settings import Settings


@dataclass(frozen=True)
class PruningConfig(Settings):
    """How to prune. Checked when it is made: a wrong value raises UserError (a ValueError) with one clear line."""

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            object.__setattr__(self, name, wildcards(name, getattr(self, name)))
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS)
        sized = any(getattr(self, name) is not None for name in SIZE_TARGETS)
        for name, value in (
            DEFAULTS
            | ({"allocation": "obs"} if sized else {})
            | PRESETS.get(self.preset, {}).get(self.kind, {})
        ).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_settings(self)

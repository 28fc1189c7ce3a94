"""PruningConfig: the settings of a pruning, filled in and checked when it is made."""

from dataclasses import dataclass
from typing import Any

from .choices import (
    BUDGETS,
    DEFAULT_MODULATION,
    DEFAULTS,
    DTYPE_ALIASES,
    METHOD_OF,
    PRESETS,
    SHARES,
    SIZE_TARGETS,
)
from .fields import describe_settings
from .rules import check_settings
from .settings import Settings
from .values import one_of, parse_share, wildcards


@dataclass(frozen=True)
class PruningConfig(Settings):
    """The settings of a pruning.

    Shares may be given as "50%", number formats as fp16, bf16 or fp32; the fields hold 0.5 and
    float16. Settings that were not given are filled in from the preset, else from their defaults.

    Raises:
        UserError: a value is wrong; one line names the setting (UserError is a ValueError).
    """

    def __post_init__(self) -> None:
        """Normalise the values, fill in what was not given, check every setting."""
        for name, value in self.normalised().items():
            object.__setattr__(self, name, value)
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS)
        if self.pattern is None:  # first, since the other defaults depend on it
            kinds = PRESETS[self.preset] if self.preset is not None else (DEFAULTS["pattern"],)
            object.__setattr__(self, "pattern", next(iter(kinds)))
        for name, value in self.defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_settings(self)

    def normalised(self) -> dict[str, Any]:
        """Return the fields that have several spellings, each in its recorded form."""
        shares = {name: parse_share(getattr(self, name)) for name in SHARES}
        wild = {name: wildcards(name, getattr(self, name)) for name in ("include", "exclude")}
        found = DTYPE_ALIASES.get(self.dtype) if isinstance(self.dtype, str) else None
        return shares | wild | ({"dtype": found} if found else {})

    def defaults(self) -> dict[str, Any]:
        """Return the values of fields that were not given."""
        sized = self.pattern != "depth" and any(
            getattr(self, name) is not None for name in SIZE_TARGETS
        )
        own = METHOD_OF.get(str(self.pattern))
        return (
            DEFAULTS
            | ({"allocation": "obs"} if sized else {})
            | ({"method": own} if own else {})
            | ({"modulation": DEFAULT_MODULATION} if self.target == "modulation" else {})
            | self.taken_from_preset()
            | self.widths_for_bits()
        )

    def taken_from_preset(self) -> dict[str, Any]:
        """Return the fields of the preset but those that a given amount replaces."""
        found = dict(self.from_preset)
        if any(getattr(self, name) is not None for name in BUDGETS):
            found.pop("sparsity", None)
        if found.get("bits") and self.sparsity == 0:  # nothing to spread: rounded alone
            found.pop("allocation", None)
        return found

    def widths_for_bits(self) -> dict[str, Any]:
        """Return round_to for FFN widths that groups of rounded weights divide, if it matters."""
        sizes = self.group_size or DEFAULTS["group_size"], self.from_preset.get("round_to", 1)
        rounded = self.bits is not None or "bits" in self.from_preset
        whole = all(type(size) is int for size in sizes)  # else a check says so
        structured = self.pattern == "structured"
        return {"round_to": max(sizes)} if rounded and structured and whole else {}


PruningConfig.__doc__ = f"{PruningConfig.__doc__}{describe_settings(PruningConfig)}"

"""The metadata of the settings: sections, helps, defaults; what the fields hold when filled in."""

import dataclasses
import typing

import pytest

from obsdiff.config import PruningConfig
from obsdiff.config.choices import BUDGETS, CALL_SETTINGS, DEFAULTS, SHARES
from obsdiff.config.fields import SECTIONS, default_in_words

WILDCARDS = ("include", "exclude")
FIELDS = {field.name: field for field in dataclasses.fields(PruningConfig)}


def test_every_field_has_a_section_and_a_help_text():
    assert {field.metadata["section"] for field in FIELDS.values()} == set(SECTIONS)
    assert all(len(field.metadata["help"]) > 10 for field in FIELDS.values())


def test_the_docstring_describes_every_field_by_section():
    doc = PruningConfig.__doc__ or ""
    assert max(len(line) for line in doc.splitlines()) <= 100
    for name, field in FIELDS.items():
        section = doc.split(f"\n    {field.metadata['section'].capitalize()}:\n")[1].split("\n\n")[
            0
        ]
        assert f"\n        {name}: " in f"\n{section}", name


def test_no_help_text_names_a_default():
    assert not [name for name, field in FIELDS.items() if "default" in field.metadata["help"]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("method", "obs"),
        ("held_out", "0"),
        ("permute", "no"),
        ("compensation", "yes"),
        ("batch_size", "4"),
        ("damping", "0.01"),
        ("seed", "0"),
        ("height", "the model's own"),
        ("include", None),
        ("target_macs", None),
    ],
)
def test_the_default_in_words(name, words):
    assert default_in_words(FIELDS[name]) == words


def test_types_are_those_of_the_filled_in_fields():
    """A field whose type is not optional is never None, whatever was given."""
    types = typing.get_type_hints(PruningConfig)
    filled = {name for name, field in FIELDS.items() if field.default is None} - {
        name for name, kind in types.items() if type(None) in typing.get_args(kind)
    }
    assert filled == set(DEFAULTS)
    for config in (PruningConfig(), PruningConfig(preset="fast", pattern="structured")):
        assert not [name for name in filled if getattr(config, name) is None]
        for name, kind in types.items():
            assert isinstance(getattr(config, name), tuple if name in WILDCARDS else kind), name


def test_the_groups_of_names_are_settings():
    assert {*BUDGETS, *SHARES, *CALL_SETTINGS} <= set(FIELDS)

"""The version of obsdiff: of this code, while the metadata of an editable install may be older."""

VERSION = "0.2.0"

"""The version of this program, as in pyproject.toml."""

VERSION = "0.3.0"

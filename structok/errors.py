"""Errors of structok: one line each, naming the file, the chain or atom, and the way out."""

from __future__ import annotations

__all__ = ["CheckpointError", "InputError", "StructokError", "TokensError"]


class StructokError(Exception):
    """Base class of every error that structok raises on purpose."""


class InputError(StructokError, ValueError):
    """A structure, molecule or argument that cannot be tokenized."""


class TokensError(StructokError, ValueError):
    """Tokens that cannot be read or decoded."""


class CheckpointError(StructokError, ValueError):
    """A model that does not exist or whose files do not fit."""

"""structok: 3D structures of proteins and molecules as discrete tokens, and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that holds it; imported on first use, so that `import structok` is instant
_HOMES = {
    "Backbone": "structok.structure",
    "Complex": "structok.complex",
    "read_structure": "structok.read",
    "StructokError": "structok.errors",
    "decode_complex": "structok.frame",
    "encode_complex": "structok.frame",
    "read_complex": "structok.complex",
    "Tokens": "structok.tokens",
    "list_models": "structok.zoo",
    "load": "structok.zoo",
    "nearest_code": "structok.codebook.nearest",
}
_MODULES = ("geometry", "lm", "metrics", "read")

__all__ = [
    "Backbone",
    "Complex",
    "StructokError",
    "Tokens",
    "decode_complex",
    "encode_complex",
    "geometry",
    "list_models",
    "lm",
    "load",
    "metrics",
    "nearest_code",
    "read",
    "read_complex",
    "read_structure",
]

if TYPE_CHECKING:
    from structok import geometry, lm, metrics, read
    from structok.codebook.nearest import nearest_code
    from structok.complex import Complex, read_complex
    from structok.errors import StructokError
    from structok.frame import decode_complex, encode_complex
    from structok.read import read_structure
    from structok.structure import Backbone
    from structok.tokens import Tokens
    from structok.zoo import list_models, load


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"structok.{name}")
    raise AttributeError(f"module 'structok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""Structure tokens in language models: the vocabulary, Hugging Face tokenizers and models, text and back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> module that holds it; what needs torch or transformers is imported on first use
_HOMES = {
    "Encoder": "structok.lm.encoder",
    "MoleculeCounts": "structok.lm.counting",
    "Parsed": "structok.lm.parsed",
    "Vocabulary": "structok.lm.vocabulary",
    "covering": "structok.lm.counting",
    "extend_tokenizer": "structok.lm.extend",
}

__all__ = ["Encoder", "MoleculeCounts", "Parsed", "Vocabulary", "covering", "extend_tokenizer"]

if TYPE_CHECKING:
    from structok.lm.counting import MoleculeCounts, covering
    from structok.lm.encoder import Encoder
    from structok.lm.extend import extend_tokenizer
    from structok.lm.parsed import Parsed
    from structok.lm.vocabulary import Vocabulary


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'structok.lm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

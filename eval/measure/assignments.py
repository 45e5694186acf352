"""How codes are assigned: open loop, or closed loop with a beam, a weight λ of the latent and μ of the rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from structok.tokenizer import Search

__all__ = ["OPEN", "assignments_of", "can_close", "closed", "default_assignment", "label_of", "options_of"]

OPEN = Search(False)


def label_of(how: Search) -> str:
    """In words."""
    if not how.closed_loop:
        return "open loop"
    weights = (("λ", how.latent_weight), ("μ", how.rate_weight))
    return f"closed loop, beam {how.beam}" + "".join(f", {k} {v:g}" for k, v in weights if v)


def options_of(how: Search) -> dict[str, Any]:
    """Those of `encode_batch`, without what the tokenizer does not know."""
    return {name: value for name, value in vars(how).items() if value is not None}


def can_close(tokenizer: Any) -> bool:
    """Whether the tokenizer can assign codes in closed loop at all (a decoder that sees all codes cannot)."""
    return tokenizer.defaults.closed_loop is not None


def default_assignment(tokenizer: Any) -> Search:
    """What `encode` does unless asked otherwise."""
    return closed(tokenizer) if tokenizer.defaults.closed_loop else OPEN


def closed(tokenizer: Any, **asked: float | None) -> Search:
    """Closed loop; what is None is the checkpoint's default, what the tokenizer does not know is left out."""
    defaults = vars(tokenizer.defaults)
    known = {k: v for k, v in asked.items() if v is not None and defaults[k] is not None}
    return replace(tokenizer.defaults, closed_loop=True, **known)


def assignments_of(
    tokenizer: Any, beams: list[int], weights: list[float], rates: list[float] | None = None
) -> list[Search]:
    """The default first, then open loop, then every further beam, λ and μ that the tokenizer knows, each once.

    A model that assigns open loop by default but could close the loop is measured in both.
    """
    found = [default_assignment(tokenizer), OPEN]
    if can_close(tokenizer):
        found += [closed(tokenizer, beam=beam) for beam in (None, *beams)]
        found += [
            closed(tokenizer, beam=beam, latent_weight=weight, rate_weight=rate)
            for beam in beams or [None]
            for weight in weights or [None]
            for rate in rates or [None]
        ]
    return list(dict.fromkeys(found))

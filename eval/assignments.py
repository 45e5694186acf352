"""How codes are assigned: open loop, or closed loop with a beam, a weight λ of the latent and μ of the rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["OPEN", "Assignment", "assignments_of", "can_close", "closed", "default_assignment"]


@dataclass(frozen=True)
class Assignment:
    """Options of `encode_batch`; None in open loop, and where the tokenizer has no such option."""

    closed_loop: bool
    beam: int | None = None
    latent_weight: float | None = None
    rate_weight: float | None = None

    @property
    def label(self) -> str:
        if not self.closed_loop:
            return "open loop"
        weights = (("λ", self.latent_weight), ("μ", self.rate_weight))
        return f"closed loop, beam {self.beam}" + "".join(f", {k} {v:g}" for k, v in weights if v)

    @property
    def options(self) -> dict[str, Any]:
        options = {"beam": self.beam, "latent_weight": self.latent_weight, "rate_weight": self.rate_weight}
        return {"closed_loop": self.closed_loop, **{k: v for k, v in options.items() if v is not None}}


OPEN = Assignment(False)


def can_close(tokenizer: Any) -> bool:
    """Whether the tokenizer can assign codes in closed loop at all (a decoder that sees all codes cannot)."""
    return tokenizer.defaults.closed_loop is not None


def default_assignment(tokenizer: Any) -> Assignment:
    """What `encode` does unless asked otherwise."""
    return closed(tokenizer) if tokenizer.defaults.closed_loop else OPEN


def closed(
    tokenizer: Any, beam: int | None = None, latent_weight: float | None = None, rate_weight: float | None = None
) -> Assignment:
    """Closed loop; what is None is the checkpoint's default, what the tokenizer does not know is left out."""
    known = {k for k, v in vars(tokenizer.defaults).items() if v is not None}
    weights = {
        name: float(getattr(tokenizer.config, name, 0.0)) if value is None else value
        for name, value in (("latent_weight", latent_weight), ("rate_weight", rate_weight))
        if name in known
    }
    return Assignment(True, beam or tokenizer.config.beam, **weights)


def assignments_of(
    tokenizer: Any, beams: list[int], weights: list[float], rates: list[float] | None = None
) -> list[Assignment]:
    """The default first, then open loop, then every further beam, λ and μ that the tokenizer knows, each once.

    A model that assigns open loop by default but could close the loop is measured in both.
    """
    found = [default_assignment(tokenizer), OPEN]
    if can_close(tokenizer):
        found += [closed(tokenizer, beam) for beam in (None, *beams)]
        found += [
            closed(tokenizer, beam, weight, rate)
            for beam in beams or [None]
            for weight in weights or [None]
            for rate in rates or [None]
        ]
    return list(dict.fromkeys(found))

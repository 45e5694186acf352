"""Between `Backbone` and `Tokens`: what every protein tokenizer copies and checks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from structok.errors import InputError, TokensError
from structok.structure import Backbone
from structok.tokens import Tokens

__all__ = ["Search", "backbone_of", "check_codes", "search_of", "tokens_of"]


def tokens_of(chain: Backbone, codes: Int[np.ndarray, " l"], model: str) -> Tokens:
    """Tokens of a chain with its mask, sequence and residue ids."""
    return Tokens(
        codes,
        "protein",
        model,
        mask=chain.mask,
        id=chain.name,
        chain=chain.chain_id,
        sequence=chain.sequence,
        residue_ids=tuple(chain.residue_ids),
    )


def backbone_of(tokens: Tokens, coords: Float[np.ndarray, "l 3 3"]) -> Backbone:
    """A rebuilt chain with the tokens' sequence and ids; missing where their mask is False."""
    coords = np.where(tokens.mask[:, None, None], coords, np.nan)
    chain_id = "A" if tokens.chain is None else tokens.chain
    return Backbone(coords, tokens.sequence, chain_id, tokens.residue_ids, name=tokens.id)


class Search(NamedTuple):
    """How codes are assigned: hypotheses kept, None in open loop, and the weights λ and μ of a closed loop."""

    beam: int | None
    latent_weight: float
    rate_weight: float


def search_of(
    config: Any, closed_loop: bool | None, beam: int | None, latent_weight: float | None, rate_weight: float | None
) -> Search:
    """What was asked for, else the checkpoint's defaults.

    Raises
    ------
    InputError
        If a number is out of range, or the checkpoint has no prior to count bits with.
    """
    if beam is not None and beam < 1:
        raise InputError(f"beam must be at least 1, not {beam}")
    pull = config.latent_weight if latent_weight is None else latent_weight
    rate = config.rate_weight if rate_weight is None else rate_weight
    for name, value in (("latent_weight", pull), ("rate_weight", rate)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be at least 0 and finite, not {value}")
    if rate and not config.groups:
        raise InputError("this checkpoint has no prior, so rate_weight must be 0")
    closed = config.closed_loop if closed_loop is None else closed_loop
    return Search(beam or config.beam, pull, rate) if closed else Search(None, 0.0, 0.0)


def check_codes(tokens: Tokens, model: str, codebook_size: int, *, missing: int | None = None) -> None:
    """Tokens must be this model's proteins with codes in range; `missing` is a code allowed where not observed."""
    where = tokens.id or "tokens"
    tokens.check_made_by(model, "protein")
    if not len(tokens):
        raise TokensError(f"{where}: no codes")
    wrong = (tokens.codes < 0) | (tokens.codes >= codebook_size)
    if missing is not None:
        wrong &= (tokens.codes != missing) | tokens.mask
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise TokensError(f"{where}: code {tokens.codes[at]} at slot {at} is outside 0..{codebook_size - 1} of {model}")

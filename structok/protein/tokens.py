"""Between `Backbone` and `Tokens`: what every protein tokenizer copies and checks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from structok.errors import TokensError
from structok.protein.structure import Backbone
from structok.tokens import Tokens

__all__ = ["backbone_of", "check_codes", "tokens_of"]


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

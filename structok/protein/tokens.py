"""Between `Backbone` and `Tokens`: what every protein tokenizer copies and checks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from structok import metrics
from structok.errors import InputError
from structok.read import as_backbone
from structok.structure import Backbone, check_bond
from structok.tokenizer import Tokenizer
from structok.tokens import Tokens

__all__ = ["BackboneTokenizer", "backbone_of", "compare_backbones"]


class BackboneTokenizer(Tokenizer[Backbone, Backbone]):
    """Takes a `Backbone`, the path of a file with one chain, a biotite `AtomArray`, or an array [L, 3, 3] in Å."""

    modality = "protein"
    fewest: ClassVar[int] = 1  # observed residues that it can do with

    def prepare(self, x: Any) -> Backbone:
        chain = as_backbone(x)
        where = f"{chain.name or 'structure'}, chain {chain.chain_id}"
        if (seen := int(chain.mask.sum())) < self.fewest:
            raise InputError(f"{where}: {seen} observed residue(s); {self.name} needs at least {self.fewest}")
        if len(chain) > self.max_length:
            raise InputError(f"{where}: {len(chain)} residues, {self.name} takes {self.max_length}; split the chain")
        n, alpha, c = chain.coords[chain.mask].transpose(1, 0, 2)
        check_bond("N-CA", n, alpha, 1.46, where)  # Engh and Huber 1991
        check_bond("CA-C", alpha, c, 1.53, where)
        return chain

    def tokens(self, item: Backbone, codes: Int[np.ndarray, " l"]) -> Tokens:
        return Tokens(
            codes,
            "protein",
            self.name,
            mask=item.mask,
            id=item.name,
            chain=item.chain_id,
            sequence=item.sequence,
            residue_ids=tuple(item.residue_ids),
        )

    def compare(self, structure: Backbone, back: Backbone, tokens: Tokens) -> dict[str, Any]:
        return compare_backbones(structure, back, self.codebook_size)


def compare_backbones(chain: Any, back: Any, codebook_size: int) -> dict[str, Any]:
    """Metrics of one rebuilt chain against the original (RMSD in Å)."""
    return {
        "length": len(chain),
        "rmsd": metrics.rmsd(back, chain),
        "rmsd_ca": metrics.rmsd_ca(back, chain),
        "tm_score": metrics.tm_score(back, chain),
        "lddt": metrics.lddt(back, chain),
        "bits_per_token": math.log2(codebook_size),
    }


def backbone_of(tokens: Tokens, coords: Float[np.ndarray, "l 3 3"]) -> Backbone:
    """A rebuilt chain with the tokens' sequence and ids; missing where their mask is False."""
    coords = np.where(tokens.mask[:, None, None], coords, np.nan)
    chain_id = "A" if tokens.chain is None else tokens.chain
    return Backbone(coords, tokens.sequence, chain_id, tokens.residue_ids, name=tokens.id)

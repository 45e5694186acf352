"""The texts of one structure, or of a complex: views, order and fields by chance."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from structok.errors import InputError, TokensError
from structok.lm.vocabulary import Vocabulary
from structok.tokens import STREAMS, AnchorText, Tokens

__all__ = ["Composer", "Instance"]

Part = tuple[str, Counter[str]]  # a wrapped stream or a field, and its tokens by group


@dataclass(frozen=True)
class Instance:
    """One pretraining text.

    Parameters
    ----------
    text : wrapped streams and fields, one a line
    id : of the structure, or the frame of a complex
    view : 'sequence', 'structure' or 'both'; for molecules 'string' in place of 'sequence'; 'complex' or 'docking'
    counts : tokens by group of the vocabulary; `spelled` are tokens that it lacks, `text_characters` is ordinary text
    """

    text: str
    id: str
    view: str
    counts: Counter[str] = field(default_factory=Counter)


class Composer:
    """Makes the texts of one structure, and of the structures of one complex.

    The three views of a protein are its sequence alone, its structure alone, and both in random order; those of a
    molecule are its SMILES or SELFIES by chance, its structure, and both. Each field of its annotation joins each
    view with probability `keep`, as a line `Field name: text`, and the lines come in random order, so that text
    leads to structure and structure to text. A vocabulary without structure tokens (scimind) has the first view only.

    What is drawn depends on the seed and the structure's id and chain, not on what was read before.

    Parameters
    ----------
    vocabulary : whose tokens the texts are made of
    seed : of all that is random
    keep : chance of a field to join a view
    anchors : where they stand, see `Tokens.to_text`: 'none', 'inline', or 'first', a sketch of the fold before its
        details; default inline where the vocabulary has tokens for them

    Raises
    ------
    InputError
        If `keep` is not from 0 to 1, or the vocabulary has no tokens for the anchors asked for.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, seed: int = 0, keep: float = 0.5, anchors: AnchorText | None = None
    ) -> None:
        if not 0 <= keep <= 1:
            raise InputError(f"keep {keep}: a probability from 0 to 1")
        known = "anchors" in vocabulary.groups
        if anchors not in (None, "none") and not known:
            raise InputError(
                f"anchors {anchors}: the {vocabulary.style} vocabulary has no tokens for them, structok has"
            )
        self.vocabulary, self.seed, self.keep = vocabulary, seed, keep
        self.anchors: AnchorText = anchors or ("inline" if known else "none")

    def instances(self, tokens: Tokens, fields: dict[str, str] | None = None) -> list[Instance]:
        """The texts of one structure, with the fields of its annotation.

        A field `smiles` of a molecule is its SMILES in place of one made from its SELFIES.

        Raises
        ------
        TokensError
            If the vocabulary cannot express the structure at all.
        """
        fields = dict(fields or {})
        draw = random.Random(f"{self.seed}/{tokens.modality}/{tokens.id}/{tokens.chain or ''}")
        smiles = fields.pop("smiles", None) if tokens.modality == "molecule" else None
        found = []
        for view in self._views(tokens):
            parts = [*self._streams(tokens, view, smiles, draw), *self._fields(fields, draw)]
            draw.shuffle(parts)
            found.append(_instance(parts, tokens.id, view))
        return found

    def complex(self, entities: Sequence[Tokens], fields: dict[str, str] | None = None) -> list[Instance]:
        """The texts of structures that share a frame; none where the text has no anchors, which alone relate them.

        'complex' has each entity's string and then its structure: first the entity whose frame it is, the others in
        random order. 'docking', of polymers with molecules, has all polymers before the molecules, so that a model
        reads the receptor and writes the ligand's pose. Fields stand in front.

        Raises
        ------
        TokensError
            If the vocabulary cannot express an entity.
        """
        entities = [e for e in entities if e.anchors is not None]
        if self.anchors == "none" or len(entities) < 2:
            return []
        first, *others = entities
        draw = random.Random(f"{self.seed}/complex/{first.frame}")
        draw.shuffle(others)
        mixed = [first, *others]
        orders = {"complex": mixed}
        if any(e.modality == "molecule" for e in mixed) and first.modality != "molecule":
            orders["docking"] = sorted(mixed, key=lambda e: e.modality == "molecule")
        found = []
        for view, order in orders.items():
            parts = self._fields(fields or {}, draw)
            for entity in order:
                parts += self._streams(entity, "both" if "both" in self._views(entity) else "structure", None, draw)
            found.append(_instance(parts, first.frame, view))
        return found

    def _views(self, tokens: Tokens) -> list[str]:
        line = "string" if tokens.modality == "molecule" else "sequence"
        has_line = tokens.modality == "molecule" or bool(tokens.sequence)
        has_structure = any(s.kind in self.vocabulary.forms for s in STREAMS[tokens.modality] if s.name == "codes")
        views = [line] * has_line + ["structure"] * has_structure + ["both"] * (has_line and has_structure)
        if not views:
            raise TokensError(f"{tokens.id or 'tokens'}: no sequence, and the vocabulary has no structure tokens")
        return views

    def _streams(self, tokens: Tokens, view: str, smiles: str | None, draw: random.Random) -> list[Part]:
        """The string, then the structure, as far as the view has them."""
        wrap, kinds = self.vocabulary, list(self.vocabulary.forms)
        out = []
        if tokens.modality != "molecule":
            if view != "structure":
                sequence = wrap.wrap_sequence if tokens.modality == "protein" else wrap.wrap_nucleic
                out.append(self._counted(sequence(tokens.sequence or "", unknown="spell")))
            if view != "sequence":
                out.append(self._counted(wrap.wrap_structure(tokens, anchors=self.anchors, unknown="spell")))
            return out
        if view != "structure":
            if "mol_sfi" in kinds and draw.random() < 0.5:
                out.append(self._counted(wrap.wrap_selfies(tokens, unknown="spell")))
            else:
                out.append(self._counted(wrap.wrap_smiles(smiles or smiles_of(tokens), unknown="spell")))
        if view != "string":
            out.append(self._counted(wrap.wrap_molecule(tokens, anchors=self.anchors, unknown="spell")))
        return out

    def _fields(self, fields: dict[str, str], draw: random.Random) -> list[Part]:
        parts = []
        for name, value in fields.items():
            if draw.random() < self.keep:
                label = name.replace("_", " ")
                prose = self.vocabulary.quote(f"{label[:1].upper()}{label[1:]}: {value}")
                parts.append((prose, Counter(text_characters=len(prose))))
        return parts

    def _counted(self, text: str) -> Part:
        """A wrapped stream with its tokens by group."""
        return text, self.vocabulary.count(text)


def _instance(parts: Sequence[Part], id: str, view: str) -> Instance:
    return Instance("\n".join(text for text, _ in parts), id, view, sum((c for _, c in parts), Counter()))


def smiles_of(tokens: Tokens) -> str:
    """Canonical SMILES of molecule tokens, without explicit hydrogens."""
    from rdkit import Chem

    from structok.molecule.conformer import molecule_of

    mol = molecule_of(tokens.selfies or "", tokens.id or "tokens")
    return Chem.MolToSmiles(Chem.RemoveHs(mol))

"""Tokens of entities that share a frame: anchors say where each lies in it, and decoding puts them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from structok.complex import Complex, Entity
from structok.errors import InputError, StructokError, TokensError
from structok.geometry import invert
from structok.nucleic.chain import NucleicChain
from structok.polymer.anchors import RADII, Anchoring, body_frame, load_points, radius_code, spacing_for
from structok.polymer.posing import choose_anchors, pose_of
from structok.protein.allatom import AtomChain
from structok.structure import Backbone
from structok.tokenizer import Search
from structok.tokens import Tokens
from structok.zoo import default_models, load, with_all_atoms

__all__ = ["decode_complex", "encode_complex", "far_atoms", "place", "share_frame"]

_STAYS = 0.01, 0.05, 0.3, 3.0  # how near anchors have to be, in turn, until the decoder believes them
_LIGAND_ANCHORS = 8  # atoms of a molecule that are anchored


def encode_complex(
    complex: Complex,
    *,
    models: Mapping[str, Any] | None = None,
    spacing: int | None = None,
    device: str = "cpu",
    skipped: Callable[[StructokError], None] | None = None,
    search: Search | None = None,
) -> list[Tokens]:
    """Tokens of each entity, polymers first, with anchors in the frame that they share.

    Parameters
    ----------
    models : tokenizers, or their names, by modality ('protein', 'nucleic', 'molecule'); default those that are shipped
    spacing : residues from anchor to anchor
    skipped : told of each entity that cannot be tokenized, while the rest goes on; None raises
    search : how codes of proteins are assigned

    Raises
    ------
    InputError
        If an entity cannot be tokenized, or the complex is larger than the largest frame.
    """
    pairs: list[tuple[Entity, Tokens, Any]] = []
    for entity in complex.entities:
        kind = _kind(entity)
        try:
            tokenizer = _model(
                kind, None if models is None else models.get(kind), device, isinstance(entity, AtomChain)
            )
            tokens = tokenizer.encode(entity, search=search if kind == "protein" else None)
        except StructokError as error:
            if skipped is None:
                raise
            skipped(error)
            continue
        pairs.append((entity, replace(tokens, id=tokens.id or complex.name), tokenizer))
    return share_frame(pairs, complex.name or "complex", spacing)


def share_frame(entities: Sequence[tuple[Entity, Tokens, Any]], frame: str, spacing: int | None = None) -> list[Tokens]:
    """Records of entities that lie in one frame, with anchors in the body frame of the first.

    Parameters
    ----------
    entities : structure, its tokens, and the tokenizer that made them
    frame : what the records shall call it
    spacing : residues from anchor to anchor

    Raises
    ------
    InputError
        If they are larger than the largest frame.
    """
    if not entities:
        return []
    truth = [_points(entity, tokens.atom_order) for entity, tokens, _ in entities]
    first = torch.from_numpy(truth[0]).double()
    base = invert(body_frame(first, torch.from_numpy(np.isfinite(truth[0]).all(-1)))).numpy()
    local = [x @ base[:3, :3].T + base[:3, 3] for x in truth]
    reach = max(float(np.nanmax(np.linalg.norm(x, axis=-1))) for x in local)
    radius = int(radius_code(torch.tensor(reach)))
    if radius >= len(RADII):
        raise InputError(
            f"{frame}: reaches {reach:.0f} Å from the first polymer's centre, frames go to {float(RADII[-1]):.0f} Å; "
            "tokenize its parts one by one"
        )
    points = load_points()
    found = []
    for (_, tokens, tokenizer), x in zip(entities, local):
        if hasattr(tokenizer, "anchors_at"):  # its decoder reads them
            anchors, every = tokenizer.anchors_at(x, radius), tokenizer.config.anchors.spacing
            found.append(replace(tokens, anchors=anchors, spacing=every, radius=radius, frame=frame))
            continue
        every = 1
        if tokens.modality != "molecule":
            every = spacing_for(
                len(tokens), spacing or (getattr(tokenizer.config, "anchors", None) or Anchoring()).spacing
            )
        chosen = _slots(tokens, x, every)
        body = _points(tokenizer.decode(tokens.without_anchors()))
        anchors = np.full(-(-len(tokens) // every), -1)
        seen = np.isfinite(x).all(-1) & np.isfinite(body).all(-1)
        at = np.cumsum(seen) - 1
        for stay in _STAYS if len(chosen) else ():
            anchors[chosen // every] = choose_anchors(body[seen], at[chosen], x[seen], radius, points, stay)
            anchored = replace(tokens, anchors=anchors.copy(), spacing=every, radius=radius, frame=frame)
            if not hasattr(tokenizer, "contradictions") or not tokenizer.contradictions(anchored):
                break
        else:
            anchored = replace(tokens, anchors=anchors, spacing=every, radius=radius, frame=frame)
        found.append(tokenizer.trusted(anchored) if hasattr(tokenizer, "trusted") else anchored)
    return found


def decode_complex(tokens: Iterable[Tokens], *, device: str = "cpu", repair: bool = True) -> Complex:
    """Entities where their anchors say; those that are missing from `tokens` leave the others in their places.

    Raises
    ------
    TokensError
        If the records name different frames, one has no anchors, or one cannot be decoded.
    """
    tokens = list(tokens)
    frames = {t.frame for t in tokens}
    if len(frames) != 1:
        named = ", ".join(sorted(f or "(its own)" for f in frames)) or "none"
        raise TokensError(f"entities of one complex share a frame, these have: {named}")
    if len(radii := {t.radius for t in tokens if t.radius is not None}) > 1:
        named = ", ".join(map(str, sorted(radii)))
        raise TokensError(f"frame {tokens[0].frame!r} has radius codes {named}: these records are of different files")
    found = Complex(name=tokens[0].frame or tokens[0].id)
    for one in tokens:
        tokenizer = _model(one.modality, one.model or None, device)
        options = {} if repair or not hasattr(tokenizer, "repairer") else {"repair": False}
        entity = place(one, tokenizer.decode(one, **options), tokenizer)
        (found.ligands if one.modality == "molecule" else found.polymers).append(entity)
    return found


def place(tokens: Tokens, entity: Entity, tokenizer: Any) -> Entity:
    """A decoded entity where its anchors say, unless its decoder has put it there."""
    if tokens.anchors is None or tokens.radius is None:
        raise TokensError(f"{tokens.where}: has no anchors, so nobody knows where it lies in {tokens.frame!r}")
    if getattr(tokenizer, "posed", False):
        return entity
    points = load_points()
    if tokens.radius >= len(RADII) or tokens.anchors.max() >= len(points):
        raise TokensError(f"{tokens.where}: radius or anchor codes out of range")
    told = np.flatnonzero(tokens.anchors >= 0)
    body = _points(entity)[told * tokens.spacing]
    goal = points.positions(torch.from_numpy(tokens.anchors[told]).long(), torch.tensor(tokens.radius)).numpy()
    seen = np.isfinite(body).all(-1)
    return _moved(entity, pose_of(body[seen], goal[seen])) if seen.any() else entity


def _model(modality: str, model: str | Any | None, device: str, all_atom: bool = False) -> Any:
    """A tokenizer: the one given, the one named, or the shipped one."""
    if model is not None and not isinstance(model, str):
        return model
    name = model or default_models().get(modality)
    if not name:
        raise InputError(f"no default {modality} model is shipped; name one")
    key = with_all_atoms(name) if all_atom else name, device
    if key not in _LOADED:
        _LOADED[key] = load(*key)
    return _LOADED[key]


_LOADED: dict[tuple[str, str], Any] = {}


def _kind(entity: Entity) -> str:
    if isinstance(entity, Backbone):
        return "protein"
    return "nucleic" if isinstance(entity, NucleicChain) else "molecule"


def _points(entity: Entity, order: Int[np.ndarray, " l"] | None = None) -> Float[np.ndarray, "l 3"]:
    """What anchors say of each slot: CA, C3', or the atom, Å; NaN where missing. `order` is of a molecule's atoms."""
    if isinstance(entity, Backbone):
        return entity.coords[:, 1].astype(np.float64)
    if isinstance(entity, NucleicChain):
        return entity.frames[:, 1].astype(np.float64)
    places = entity.GetConformer().GetPositions()
    return places if order is None else places[order]


def _moved(entity: Entity, move: Float[np.ndarray, "4 4"]) -> Entity:
    def there(x: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 3"]:
        return x @ move[:3, :3].T + move[:3, 3]

    if isinstance(entity, AtomChain):
        entity.atoms = there(entity.atoms).astype(np.float32)
    if isinstance(entity, NucleicChain):
        entity.atoms = there(entity.atoms).astype(np.float32)
    elif isinstance(entity, Backbone):
        entity.coords = there(entity.coords).astype(np.float32)
    else:
        entity.GetConformer().SetPositions(there(entity.GetConformer().GetPositions()))
    return entity


def _slots(tokens: Tokens, x: Float[np.ndarray, "l 3"], every: int) -> Int[np.ndarray, " n"]:
    """Slots that get an anchor: every few observed residues, or atoms far apart in the graph."""
    if tokens.modality != "molecule":
        slots = np.arange(0, len(tokens), every)
        return slots[np.isfinite(x[slots]).all(-1)]
    return far_atoms(tokens)


def far_atoms(tokens: Tokens) -> Int[np.ndarray, " n"]:
    """Atoms of a molecule to anchor: heavy ones, each as many bonds away as possible from those before it.

    The first is the atom furthest from the rest; ties go to the first in token order. Small molecules take hydrogens
    too.
    """
    from rdkit.Chem import GetDistanceMatrix

    from structok.molecule.conformer import molecule_of

    assert tokens.selfies is not None
    mol = molecule_of(tokens.selfies, tokens.where)
    bonds = GetDistanceMatrix(mol)
    heavy: Bool[np.ndarray, " n"] = np.array([a.GetAtomicNum() > 1 for a in mol.GetAtoms()])
    able = heavy if heavy.sum() >= 4 else np.ones(len(heavy), bool)
    chosen = [int(np.where(able, bonds.sum(1), -1).argmax())]
    while len(chosen) < min(_LIGAND_ANCHORS, int(able.sum())):
        near = bonds[:, chosen].min(1)
        near[chosen] = -1
        # among equally far ones that which is far from all
        score = np.where(able, near + 1e-3 * bonds[:, chosen].mean(1), -1)
        chosen.append(int(score.argmax()))
    return np.sort(chosen)

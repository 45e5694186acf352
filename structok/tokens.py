"""`Tokens`: the record that every tokenizer writes and reads. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from structok.errors import TokensError
from structok.streams import STREAMS, AnchorText, Modality, Stream, declare, read_text, selfies_atoms, write_text

__all__ = ["CODE_STREAMS", "STREAMS", "AnchorText", "Modality", "Stream", "Tokens", "declare", "selfies_atoms"]

CODE_STREAMS = tuple(dict.fromkeys(s.name for streams in STREAMS.values() for s in streams))
_INT32 = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Tokens:
    """Structure tokens of one entity: a protein or nucleic acid chain, or a molecule.

    Parameters
    ----------
    codes : int32 array, shape=(L,)
        One code per residue slot (polymers) or per atom in token order (molecule); -1 = no code.
    modality : {'protein', 'nucleic', 'molecule'}
    model : name of the tokenizer that made them, '' when unknown (text carries no name)
    mask : bool array, shape=(L,), False where the residue was not observed. Default: all True.
    id : name of the structure, usually the file's stem
    chain : chain id (polymers)
    sequence : one letter per slot (polymers)
    residue_ids : number and insertion code per slot, such as '52' or '52A' (polymers)
    selfies : SELFIES whose atom tokens align with `codes` (molecule)
    atom_order : int32 array, shape=(L,), input atom of each code (molecule)
    sidechains : int32 array, shape=(L,), side-chain conformer of each residue, -1 = none (protein)
    conformers : int32 array, shape=(L,), conformer of each nucleotide, -1 = none (nucleic)
    anchors : int32 array, shape=(ceil(L / spacing),)
        Point of the shared frame at which slot j * spacing lies, -1 = none
    spacing : slots from anchor to anchor, 0 without anchors
    radius : code of the frame's radius
    frame : name of the frame that the entities of one complex share; '' = its own
    """

    codes: np.ndarray
    modality: Modality = "protein"
    model: str = ""
    mask: np.ndarray = None  # type: ignore[assignment]  # set in __post_init__
    id: str = ""
    chain: str | None = None
    sequence: str | None = None
    residue_ids: tuple[str, ...] | None = None
    selfies: str | None = None
    atom_order: np.ndarray | None = None
    sidechains: np.ndarray | None = None
    conformers: np.ndarray | None = None
    anchors: np.ndarray | None = None
    spacing: int = 0
    radius: int | None = None
    frame: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "model", "frame", "chain", "sequence", "selfies"):
            if not isinstance(getattr(self, name), str) and (
                name in ("id", "model", "frame") or getattr(self, name) is not None
            ):
                raise TokensError(f"{name!r} must be a string, not {getattr(self, name)!r}")
        if self.modality not in STREAMS:
            raise TokensError(f"{self.where}: unknown modality {self.modality!r}; one of {', '.join(STREAMS)}")
        put = object.__setattr__
        self._check_streams()
        mask = self.codes >= 0 if self.mask is None else np.asarray(self.mask, dtype=bool)
        if mask.ndim != 1:
            raise TokensError(f"{self.where}: the mask must be flat")
        put(self, "mask", mask)
        put(self, "residue_ids", None if self.residue_ids is None else tuple(map(str, self.residue_ids)))
        if self.atom_order is not None:
            put(self, "atom_order", np.asarray(self.atom_order, dtype=np.int32))
        for name in ("mask", "sequence", "residue_ids", "atom_order"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self):
                raise TokensError(f"{self.where}: {len(self)} codes but {len(value)} entries in {name!r}")
        if self.modality == "molecule":
            if self.selfies is None:
                raise TokensError(f"{self.where}: molecule tokens need their SELFIES string")
            atoms = sum(owns for _, owns in selfies_atoms(self.selfies))
            if atoms != len(self):
                raise TokensError(f"{self.where}: {len(self)} codes but {atoms} atoms in the SELFIES")

    def _check_streams(self) -> None:
        """Every stream is an int32 array of its declared length, of this modality."""
        declared = {s.name: s for s in STREAMS[self.modality]}
        put = object.__setattr__
        for name in ("spacing", "radius"):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if value is not None and not (whole and 0 <= value <= _INT32):
                raise TokensError(f"{self.where}: {name} must be a whole number from 0, not {value!r}")
            put(self, name, value if value is None else int(value))
        if (self.anchors is None) != (self.spacing == 0):
            raise TokensError(f"{self.where}: anchors and a spacing above 0 come together")
        for name in CODE_STREAMS:
            if (values := getattr(self, name)) is None:
                continue
            if name not in declared:
                raise TokensError(f"{self.where}: {self.modality} tokens have no {name}")
            codes = np.asarray(values)
            if codes.ndim != 1 or not (codes.size == 0 or np.issubdtype(codes.dtype, np.integer)):
                raise TokensError(f"{self.where}: {name} must be a flat list of integers")
            if codes.size and (codes.min() < -1 or codes.max() > _INT32):
                raise TokensError(f"{self.where}: {name} must be -1 or above and fit in 32 bits")
            put(self, name, codes.astype(np.int32))
            if len(codes) != (wanted := declared[name].slots(len(self), self.spacing)):
                raise TokensError(f"{self.where}: {len(self)} codes need {wanted} {name}, not {len(codes)}")

    @property
    def where(self) -> str:
        """Its name in messages."""
        return self.id or "tokens"

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokens) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def check_made_by(self, model: str, modality: Modality) -> None:
        """Raise `TokensError` unless a tokenizer of this modality and name may decode these tokens."""
        if self.modality != modality:
            raise TokensError(f"{self.where}: {self.modality} tokens, but {model} decodes {modality} tokens")
        if self.model and self.model != model:
            raise TokensError(
                f"{self.where}: made by {self.model!r}, not {model!r}; decode with that model (-m {self.model})"
            )

    def without_anchors(self) -> Tokens:
        """The same codes with nothing that says where they lie."""
        return dataclasses.replace(self, anchors=None, spacing=0, radius=None)

    def to_text(self, wrap: bool = True, *, anchors: AnchorText = "none") -> str:
        """Text form: `<S 4012>...` per residue, `[C 42][Branch1 -1]...` per SELFIES token.

        Parameters
        ----------
        wrap : put each stream between its control tokens: `<|prot_3d_start|>` and `<|prot_3d_end|>`, `nuc_3d`,
            `mol_3d`, then the side chains `<C 17>...` in `prot_sc` or conformers `<F 3>...` in `nuc_cf`
        anchors : 'inline' writes the radius `<R 9>` at the start and an anchor `<X 17>` before the token of its slot,
            'first' writes all anchors before the first slot (those of molecules stay inline), 'none' leaves them out
        """
        return write_text(self.modality, self._fields(), anchors, wrap)

    @classmethod
    def from_text(cls, text: str, *, model: str = "", id: str = "", spacing: int = 6) -> Tokens:
        """Read what `to_text` wrote, with or without the wrapping tokens.

        `spacing` is that of the anchors: needed where they come first and another than 4, 6, 8 and 16.

        Raises `TokensError` when any part of the text is not a structure token, or when the
        wrapper does not close (a text cut in the middle).
        """
        try:
            fields = read_text(text, spacing)
            return cls(**fields, model=model, id=id)
        except TokensError as error:
            raise TokensError(_named(error, id or "text")) from None
        except OverflowError as error:
            raise TokensError(f"{id or 'text'}: a number is too large ({error})") from None

    def _fields(self) -> dict[str, Any]:
        """Fields with arrays as lists; None where nothing is said."""
        lists = {name: None if (v := getattr(self, name)) is None else v.tolist() for name in CODE_STREAMS}
        return {**{name: getattr(self, name) for name in _FIELDS}, **lists}

    def to_dict(self) -> dict[str, Any]:
        """Plain record, as written to jsonl: enough to decode it. Fields that say nothing are left out."""
        record: dict[str, Any] = {"id": self.id, "modality": self.modality, "model": self.model}
        record["codes"] = self.codes.tolist()
        for name in ("sequence", "selfies", "chain", "radius"):
            if (value := getattr(self, name)) is not None:
                record[name] = value
        if self.residue_ids is not None:
            record["residue_ids"] = list(self.residue_ids)
        for name in ("atom_order", *CODE_STREAMS[1:]):
            if (value := getattr(self, name)) is not None:
                record[name] = value.tolist()
        for name in ("spacing", "frame"):
            if value := getattr(self, name):
                record[name] = value
        if not np.array_equal(self.mask, self.codes >= 0):
            record["missing"] = np.flatnonzero(~self.mask).tolist()
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Tokens:
        """Inverse of `to_dict`; unknown fields are ignored, missing or malformed ones are errors."""
        where = str(record.get("id") or "tokens") if isinstance(record, dict) else "tokens"
        if not isinstance(record, dict) or record.get("codes") is None:
            raise TokensError(f"{where}: a token record is an object with at least 'codes'")
        try:
            fields = {k: v for k, v in record.items() if k in _FIELDS and k != "mask" and v is not None}
            for name in CODE_STREAMS:
                if name in fields:
                    fields[name] = np.array(_integers(fields[name], name), dtype=np.int64)
            if (missing := record.get("missing")) is not None:
                mask = np.ones(len(fields["codes"]), dtype=bool)
                slots = np.array(_integers(missing, "missing"), dtype=np.int64)
                if slots.size and slots.min() < 0:
                    raise TokensError("slots in 'missing' start at 0")
                mask[slots] = False
                fields["mask"] = mask
            return cls(**fields)
        except TokensError as error:
            raise TokensError(_named(error, where)) from None
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise TokensError(f"{where}: malformed token record ({error})") from None


_FIELDS = tuple(f.name for f in dataclasses.fields(Tokens))


def _named(error: TokensError, where: str) -> str:
    """The message, beginning with the record's name, once."""
    return f"{where}: {str(error).removeprefix('tokens: ').removeprefix(f'{where}: ')}"


def _integers(values: Sequence[Any], name: str) -> list[int]:
    if isinstance(values, str) or any(isinstance(v, bool) or int(v) != v for v in values):
        raise TokensError(f"{name} must be a flat list of integers")
    return [int(v) for v in values]

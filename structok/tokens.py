"""`Tokens`: the record that every tokenizer writes and reads, and its text form. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from structok.errors import TokensError

__all__ = ["Tokens", "selfies_atoms"]

Modality = Literal["protein", "molecule"]

_WRAP = {
    "protein": ("<|prot_3d_start|>", "<|prot_3d_end|>"),
    "molecule": ("<|mol_3d_start|>", "<|mol_3d_end|>"),
}
_PROTEIN_TOKEN = re.compile(r"<S (-1|\d+)>")
_MOLECULE_TOKEN = re.compile(r"\[([^\[\]\s]+) (-1|\d+)\]")
_SELFIES_TOKEN = re.compile(r"\[[^\[\]]*\]|\.")
_OVERLOADED = re.compile(r"\[[=#\\/\-]*(?:Branch|Ring)([1-3])\]")


def selfies_atoms(selfies: str) -> list[tuple[str, bool]]:
    """Split a SELFIES string into (token, owns an atom).

    Branch and Ring tokens own no atom, nor do the one to three index tokens that follow them
    (Krenn et al. 2020, as the `selfies` package writes them).
    """
    tokens = _SELFIES_TOKEN.findall(selfies)
    if "".join(tokens) != selfies:
        raise TokensError(f"not a SELFIES string: {selfies[:60]!r}")
    pairs, index_left = [], 0
    for token in tokens:
        if index_left:
            index_left -= 1
            pairs.append((token, False))
        elif match := _OVERLOADED.fullmatch(token):
            index_left = int(match[1])
            pairs.append((token, False))
        else:
            pairs.append((token, token not in (".", "[nop]")))
    return pairs


@dataclass(frozen=True, eq=False)
class Tokens:
    """Structure tokens of one protein chain or one molecule.

    Parameters
    ----------
    codes : int32 array, shape=(L,)
        One code per residue slot (protein) or per atom in token order (molecule); -1 = no code.
    modality : {'protein', 'molecule'}
    model : name of the tokenizer that made them, '' when unknown (text carries no name)
    mask : bool array, shape=(L,), False where the residue was not observed. Default: all True.
    id : name of the structure, usually the file's stem
    chain : chain id (protein)
    sequence : one letter per slot (protein)
    residue_ids : number and insertion code per slot, such as '52' or '52A' (protein)
    selfies : SELFIES whose atom tokens align with `codes` (molecule)
    atom_order : int32 array, shape=(L,), input atom of each code (molecule)
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

    def __post_init__(self) -> None:
        for name in ("id", "model", "chain", "sequence", "selfies"):
            if not isinstance(getattr(self, name), str) and (
                name in ("id", "model") or getattr(self, name) is not None
            ):
                raise TokensError(f"{name!r} must be a string, not {getattr(self, name)!r}")
        codes = np.asarray(self.codes)
        if codes.ndim != 1 or not (codes.size == 0 or np.issubdtype(codes.dtype, np.integer)):
            raise TokensError(f"{self.id or 'tokens'}: codes must be a flat list of integers")
        if codes.size and (codes.min() < -1 or codes.max() > np.iinfo(np.int32).max):
            raise TokensError(f"{self.id or 'tokens'}: codes must be -1 or above and fit in 32 bits")
        mask = codes >= 0 if self.mask is None else np.asarray(self.mask, dtype=bool)
        put = object.__setattr__
        if mask.ndim != 1:
            raise TokensError(f"{self.id or 'tokens'}: the mask must be flat")
        put(self, "codes", codes.astype(np.int32))
        put(self, "mask", mask)
        put(self, "residue_ids", None if self.residue_ids is None else tuple(map(str, self.residue_ids)))
        if self.atom_order is not None:
            put(self, "atom_order", np.asarray(self.atom_order, dtype=np.int32))
        for name in ("mask", "sequence", "residue_ids", "atom_order"):
            value = getattr(self, name)
            if value is not None and len(value) != len(codes):
                raise TokensError(f"{self.id or 'tokens'}: {len(codes)} codes but {len(value)} entries in {name!r}")
        if self.modality not in _WRAP:
            raise TokensError(f"{self.id or 'tokens'}: unknown modality {self.modality!r} (protein or molecule)")
        if self.modality == "molecule":
            if self.selfies is None:
                raise TokensError(f"{self.id or 'tokens'}: molecule tokens need their SELFIES string")
            atoms = sum(owns for _, owns in selfies_atoms(self.selfies))
            if atoms != len(codes):
                raise TokensError(f"{self.id or 'tokens'}: {len(codes)} codes but {atoms} atoms in the SELFIES")

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokens) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def check_made_by(self, model: str, modality: Modality) -> None:
        """Raise `TokensError` unless a tokenizer of this modality and name may decode these tokens."""
        where = self.id or "tokens"
        if self.modality != modality:
            raise TokensError(f"{where}: {self.modality} tokens, but {model} decodes {modality}s")
        if self.model and self.model != model:
            raise TokensError(
                f"{where}: made by {self.model!r}, not {model!r}; decode with that model (-m {self.model})"
            )

    def to_text(self, wrap: bool = True) -> str:
        """Text form: `<S 4012>...` per residue, `[C 42][Branch1 -1]...` per SELFIES token.

        `wrap=True` puts it between `<|prot_3d_start|>` and `<|prot_3d_end|>` (or `mol_3d`).
        """
        if self.modality == "protein":
            body = "".join(f"<S {c}>" for c in self.codes)
        else:
            codes = iter(self.codes.tolist())
            body = "".join(
                f"{token[:-1]} {next(codes) if owns else -1}]" for token, owns in selfies_atoms(self.selfies or "")
            )
        start, end = _WRAP[self.modality]
        return f"{start}{body}{end}" if wrap else body

    @classmethod
    def from_text(cls, text: str, *, model: str = "", id: str = "") -> Tokens:
        """Read what `to_text` wrote, with or without the wrapping tokens.

        Raises `TokensError` when any part of the text is not a structure token, or when the
        wrapper does not close (a text cut in the middle).
        """
        text, where = text.strip(), id or "text"
        modality: Modality = "molecule" if text.startswith((_WRAP["molecule"][0], "[")) else "protein"
        start, end = _WRAP[modality]
        if text.startswith(start) != text.endswith(end):
            raise TokensError(f"{where}: starts or ends in the middle; expected {start} ... {end}")
        body = text.removeprefix(start).removesuffix(end)
        pattern = _PROTEIN_TOKEN if modality == "protein" else _MOLECULE_TOKEN
        matches = list(pattern.finditer(body))
        position = 0
        for match in matches:
            if match.start() != position:
                break
            position = match.end()
        if position != len(body) or not matches:
            raise TokensError(f"{where}: not a structure token: {body[position : position + 40]!r}")
        if modality == "protein":
            return cls(np.array([int(m[1]) for m in matches]), modality, model, id=id)
        selfies = "".join(f"[{m[1]}]" for m in matches)
        owns = [o for _, o in selfies_atoms(selfies)]
        codes = [int(m[2]) for m in matches]
        for match, own, code in zip(matches, owns, codes):
            if own != (code >= 0):
                raise TokensError(f"{where}: {match[0]} {'needs a code' if own else 'owns no atom, its code is -1'}")
        return cls(
            np.array([c for c, o in zip(codes, owns) if o], dtype=np.int32),
            modality,
            model,
            id=id,
            selfies=selfies,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain record, as written to jsonl: enough to decode it. Fields that say nothing are left out."""
        record: dict[str, Any] = {"id": self.id, "modality": self.modality, "model": self.model}
        record["codes"] = self.codes.tolist()
        for name in ("sequence", "selfies", "chain"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        if self.residue_ids is not None:
            record["residue_ids"] = list(self.residue_ids)
        if self.atom_order is not None:
            record["atom_order"] = self.atom_order.tolist()
        if not np.array_equal(self.mask, self.codes >= 0):
            record["missing"] = np.flatnonzero(~self.mask).tolist()
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Tokens:
        """Inverse of `to_dict`; unknown fields are ignored, missing or malformed ones are errors."""
        where = str(record.get("id") or "tokens") if isinstance(record, dict) else "tokens"
        if not isinstance(record, dict) or record.get("codes") is None:
            raise TokensError(f"{where}: a token record is an object with at least 'codes'")
        known = {f.name for f in dataclasses.fields(cls)} - {"mask"}
        try:
            fields = {k: v for k, v in record.items() if k in known and v is not None}
            fields["codes"] = np.array(_integers(fields["codes"]), dtype=np.int64)
            if (missing := record.get("missing")) is not None:
                mask = np.ones(len(fields["codes"]), dtype=bool)
                slots = np.array(_integers(missing), dtype=np.int64)
                if slots.size and slots.min() < 0:
                    raise TokensError("slots in 'missing' start at 0")
                mask[slots] = False
                fields["mask"] = mask
            return cls(**fields)
        except TokensError as error:
            raise TokensError(f"{where}: {str(error).removeprefix('tokens: ').removeprefix(f'{where}: ')}") from None
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise TokensError(f"{where}: malformed token record ({error})") from None


def _integers(values: Sequence[Any]) -> list[int]:
    if isinstance(values, str) or any(isinstance(v, bool) or int(v) != v for v in values):
        raise TokensError("codes must be a flat list of integers")
    return [int(v) for v in values]

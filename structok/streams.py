"""What a record of tokens may hold: its streams of codes, declared once, and the text made of them. Imports no torch.

Columns of token files, checks, text forms, vocabulary groups and the parser derive from `STREAMS`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal, NamedTuple, get_args

from structok.errors import TokensError

__all__ = [
    "RADIUS",
    "STREAMS",
    "AnchorText",
    "Modality",
    "Stream",
    "declare",
    "read_text",
    "selfies_atoms",
    "write_text",
]

Modality = Literal["protein", "nucleic", "molecule"]
AnchorText = Literal["none", "inline", "first"]

_TOKEN = re.compile(r"<\|(\w+)_(start|end)\|>|<([A-Z]) (-1|\d+)>|\[([^\[\]\s]+) (-1|\d+)\]")
_SELFIES_TOKEN = re.compile(r"\[[^\[\]]*\]|\.")
_OVERLOADED = re.compile(r"\[[=#\\/\-]*(?:Branch|Ring)([1-3])\]")


@dataclass(frozen=True)
class Stream:
    """One kind of code in a record.

    Parameters
    ----------
    name : field of `Tokens`
    letter : of its text form, `<S 4012>` for 'S'; '' where the code stands inside a SELFIES token, `[C 42]`
    kind : of the stretch of text that it fills, between `<|kind_start|>` and `<|kind_end|>`; '' where its tokens
        stand in the stretch of `codes`, before the slot that they belong to
    spaced : one code every `Tokens.spacing` slots instead of one per slot
    size : number of codes of a checkpoint; 0 in `STREAMS`, which knows none
    bare : letters of residues that have no such code, glycines among side chains
    """

    name: str
    letter: str
    kind: str = ""
    spaced: bool = False
    size: int = 0
    bare: str = ""

    @property
    def token(self) -> str:
        """How a code is written, such as '<S {}>'."""
        return f"<{self.letter} {{}}>"

    def slots(self, length: int, spacing: int) -> int:
        """Codes of this stream in a record of `length` slots."""
        return -(-length // spacing) if self.spaced else length


_ANCHORS = Stream("anchors", "X", spaced=True)
RADIUS = Stream("radius", "R")  # one code per frame, written before the first anchor
STREAMS: dict[Modality, tuple[Stream, ...]] = {
    "protein": (Stream("codes", "S", "prot_3d"), Stream("sidechains", "C", "prot_sc", bare="GX"), _ANCHORS),
    "nucleic": (Stream("codes", "N", "nuc_3d"), Stream("conformers", "F", "nuc_cf"), _ANCHORS),
    "molecule": (Stream("codes", "", "mol_3d"), _ANCHORS),
}
_PLAIN = {s[0].letter: re.compile(rf"(?:<{s[0].letter} (?:-1|\d+)>)+") for s in STREAMS.values() if s[0].letter}
_JOINT = re.compile(r"\[([^\[\]\s]+) (-1|\d+)\]")
_MODALITY_OF = {s.kind: m for m, streams in STREAMS.items() for s in streams if s.kind}
_BY_LETTER = {s.letter: s for streams in STREAMS.values() for s in streams} | {RADIUS.letter: RADIUS}


@cache
def declare(modality: Modality, **sizes: int) -> tuple[Stream, ...]:
    """The streams of a checkpoint, by name with their numbers of codes: `declare("protein", codes=4096)`."""
    known = {s.name: s for s in STREAMS[modality]}
    return tuple(replace(known[name], size=size) for name, size in sizes.items())


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


def write_text(modality: Modality, fields: Mapping[str, Any], anchors: AnchorText, wrap: bool) -> str:
    """See `Tokens.to_text`; `fields` are a record's, codes as lists."""
    if anchors not in get_args(AnchorText):
        raise TokensError(f"anchors {anchors!r} is none of {', '.join(get_args(AnchorText))}")
    points = fields.get("anchors") if anchors != "none" else None
    head, before = "", {}
    if points is not None:
        if fields.get("radius") is not None:
            head = RADIUS.token.format(fields["radius"])
        if anchors == "first" and modality != "molecule":
            head += "".join(map(_ANCHORS.token.format, points))
        else:
            before = {i * fields["spacing"]: _ANCHORS.token.format(x) for i, x in enumerate(points) if x >= 0}
    parts = []
    for stream in STREAMS[modality]:
        if not stream.kind or (codes := fields.get(stream.name)) is None:
            continue
        literals = map(stream.token.format, codes) if stream.letter else _joint(codes, fields["selfies"])
        if stream.name == "codes":
            slots = iter(_slots(modality, fields))
            literals = (before.get(next(slots), "") + t if before else t for t in literals)
            body = head + "".join(literals)
        else:
            body = "".join(literals)
        parts.append(f"<|{stream.kind}_start|>{body}<|{stream.kind}_end|>" if wrap else body)
    return "".join(parts)


def _joint(codes: Sequence[int], selfies: str) -> Iterator[str]:
    """SELFIES tokens with their codes inside, -1 where they own no atom."""
    left = iter(codes)
    return (f"{token[:-1]} {next(left) if owns else -1}]" for token, owns in selfies_atoms(selfies))


def _slots(modality: Modality, fields: Mapping[str, Any]) -> Iterator[int]:
    """The slot of each token of `codes`, -1 for SELFIES tokens that own no atom."""
    if modality != "molecule":
        yield from range(len(fields["codes"]))
        return
    slot = 0
    for _, owns in selfies_atoms(fields["selfies"]):
        yield slot if owns else -1
        slot += owns


class _Found(NamedTuple):
    """A token of a text: the stream's letter ('' of a molecule), its code, its SELFIES token, the whole literal."""

    letter: str
    code: int
    selfies: str
    literal: str


def read_text(text: str, spacing: int) -> dict[str, Any]:
    """Fields of the record that `write_text` wrote, see `Tokens.from_text`."""
    if plain := _plain(text.strip()):
        return plain
    stretches = _stretches(text.strip())
    modality = next((_MODALITY_OF.get(kind) for kind in stretches), None)
    fields: dict[str, Any] = {"modality": modality}
    for stream in STREAMS[modality] if modality else ():
        if (found := stretches.pop(stream.kind, None)) is None:
            continue
        if stream.name == "codes":
            fields |= _read_main(found, stream, spacing)
        elif any(f.letter != stream.letter for f in found):
            raise TokensError(f"{next(f for f in found if f.letter != stream.letter).literal} inside {stream.kind}")
        else:
            fields[stream.name] = [f.code for f in found]
    if stretches or "codes" not in fields:
        raise TokensError(f"not the text of one structure: {text.strip()[:40]!r}")
    return fields


def _plain(text: str) -> dict[str, Any] | None:
    """The fields of a text of codes alone, which most are; None for any other, right or wrong."""
    for modality, (stream, *_) in STREAMS.items():
        start, end = f"<|{stream.kind}_start|>", f"<|{stream.kind}_end|>"
        wrapped = text.startswith(start) and text.endswith(end)
        body = text[len(start) : -len(end)] if wrapped else text
        if not stream.letter:
            found = _JOINT.findall(body)
            selfies = "".join(f"[{token}]" for token, _ in found)
            if not found or len(body) != len(selfies) + sum(1 + len(code) for _, code in found):
                continue
            codes = [int(code) for (_, code), (_, owns) in zip(found, selfies_atoms(selfies)) if owns]
            if len(codes) == sum(code != "-1" for _, code in found) and min(codes, default=0) >= 0:
                return {"modality": modality, "codes": codes, "selfies": selfies}
        elif _PLAIN[stream.letter].fullmatch(body):
            return {"modality": modality, "codes": list(map(int, body[3:-1].split(f"><{stream.letter} ")))}
    return None


def _stretches(text: str) -> dict[str, list[_Found]]:
    """Tokens by the kind of stretch that they stand in; a text without control tokens has those of its letters."""
    stretches: dict[str, list[_Found]] = {}
    loose: list[_Found] = []
    at, kind = 0, ""
    for match in _TOKEN.finditer(text):
        if match.start() != at:
            break
        if edge := match[2]:
            if match[1] not in _MODALITY_OF or (edge == "start") == bool(kind) or (edge == "end" and kind != match[1]):
                break
            if edge == "start":
                kind = match[1]
                if stretches.setdefault(kind, []):
                    break
            elif not stretches[kind]:
                break
            else:
                kind = ""
        elif (letter := match[3] or "") in _BY_LETTER:
            code = int(match[4] or match[6])
            (stretches[kind] if kind else loose).append(_Found(letter, code, match[5] or "", match[0]))
        else:
            break
        at = match.end()
    if at != len(text) or not text:
        raise TokensError(f"not a structure token: {text[at : at + 40]!r}")
    if kind or (loose and stretches):
        raise TokensError(f"starts or ends in the middle; expected <|..._start|> ... <|..._end|>: {text[:20]!r}")
    if loose:
        kinds = groupby(loose, lambda f: _BY_LETTER[f.letter].kind)
        main = next((s.kind for f in loose if (s := _BY_LETTER[f.letter]).kind), "")
        for found, group in kinds:
            stretches.setdefault(found or main, []).extend(group)
    return stretches


def _read_main(found: list[_Found], stream: Stream, spacing: int) -> dict[str, Any]:
    """Codes with the anchors between them."""
    fields: dict[str, Any] = {}
    literals: list[_Found] = []
    anchors: list[tuple[int, int]] = []  # how many literals come before it, its code
    for item in found:
        if item.letter == stream.letter:
            literals.append(item)
        elif item.letter == _ANCHORS.letter:
            anchors.append((len(literals), item.code))
        elif item.letter == RADIUS.letter and not literals and not anchors and "radius" not in fields:
            fields["radius"] = item.code
        else:
            raise TokensError(f"{item.literal} does not belong here")
    slot_of = list(range(len(literals)))
    if stream.letter:
        fields["codes"] = [item.code for item in literals]
    else:
        fields["selfies"] = "".join(f"[{item.selfies}]" for item in literals)
        owners = [owns for _, owns in selfies_atoms(fields["selfies"])]
        for item, owns in zip(literals, owners):
            if owns != (item.code >= 0):
                raise TokensError(f"{item.literal} {'needs a code' if owns else 'owns no atom, its code is -1'}")
        fields["codes"] = [item.code for item, owns in zip(literals, owners) if owns]
        slot_of = [slot - 1 if owns else -1 for slot, owns in zip(accumulate(owners), owners)]
        spacing = 1
    if anchors or "radius" in fields:
        fields |= place_anchors(anchors, slot_of, len(fields["codes"]), spacing)
    return fields


_SPACINGS = (6, 8, 4, 16)  # of shipped models first; a text with all anchors in front does not say which is its


def place_anchors(anchors: list[tuple[int, int]], slot_of: list[int], length: int, spacing: int) -> dict[str, Any]:
    """Anchors of a text at their slots: all before the first slot, or each before its own."""
    points = [point for _, point in anchors]
    if not points:  # a radius, and no slot with an anchor
        return {"anchors": [-1] * -(-length // spacing), "spacing": spacing}
    if len(anchors) > 1 and not any(before for before, _ in anchors):
        fitting = (s for s in (spacing, *_SPACINGS) if len(anchors) == -(-length // s))
        if not (found := next(fitting, 0)):
            raise TokensError(f"{len(anchors)} anchors for {length} codes are not one every {spacing}; give spacing=")
        return {"anchors": points, "spacing": found}
    slots = [slot_of[before] if before < len(slot_of) else -1 for before, _ in anchors]
    if min(slots) < 0 or len(set(slots)) < len(slots):
        raise TokensError("an anchor stands before the token of a slot, and no slot has two")
    if any(slot % spacing for slot in slots):
        spacing = math.gcd(*slots)
        usual, often = Counter(b - a for a, b in pairwise(slots)).most_common(1)[0] if len(slots) > 1 else (1, 1)
        if spacing == 1 < min(usual, often):
            raise TokensError(f"codes lost or gained between anchors {usual} apart; Vocabulary.parse re-aligns them")
    placed = [-1] * -(-length // spacing)
    for slot, point in zip(slots, points):
        placed[slot // spacing] = point
    return {"anchors": placed, "spacing": spacing}

"""Plots of benchmark results as SVG that follows the page: text and axes take the colour of the text around them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from eval.report.results import rows_of
from eval.report.table import dig

__all__ = ["by_size", "codebook_use", "corruption", "jitter", "learnability", "pareto", "rate_bars", "rate_distortion",
           "svg", "tolerance", "trade_off"]  # fmt: skip

INK = "#0f0e0d"  # stands for the page's text colour
COLOURS = ("#e8702a", "#3b82f6", "#10a37f", "#a855f7", "#e0445c", "#b58900", "#0891b2", "#d946a6", "#65a30d")
GREY = "#8a8f98"

Results = dict[str, Any]


def _figure(width: float = 4.8, height: float = 3.6) -> tuple[Figure, Axes]:
    settings = {
        "font.size": 10.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "legend.fontsize": 9,
    }  # fmt: skip
    matplotlib.rcParams.update(settings)
    figure, axis = plt.subplots(figsize=(width, height))
    axis.grid(alpha=0.25, color=GREY, linewidth=0.6)
    return figure, axis


def svg(figure: Figure, name: str) -> str:
    """The figure as inline SVG: scales with the page, follows its text colour, says what it shows."""
    matplotlib.rcParams["svg.hashsalt"] = name
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    used = set(re.findall(r"(?:#|url\(#)([\w-]+)", rest))
    rest = re.sub(r' id="([\w-]+)"', lambda m: m[0] if m[1] in used else "", rest)
    text = f'{head} role="img" aria-label="{name}">{rest}'
    # thousandths of a point are enough inside tags; numbers between tags are labels
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d\d)\d+", r"\1", tag[0]), text)
    return text.replace(INK, "currentColor").replace("stroke: none; stroke-linecap: butt", "stroke: none").strip()


def short(label: str) -> str:
    """'closed loop, beam 8, λ 1' -> 'beam 8, λ 1'."""
    return label.removeprefix("closed loop, ")


def lines_of(models: Results) -> list[Results]:
    """Rows of the default and the open-loop assignments, with a colour for each model; open loop is dashed."""
    colours = dict(zip(models, COLOURS * 3))
    return [
        row | {"label": f"{row['tokenizer']}, {short(row['assignment'])}", "colour": colours[row["tokenizer"]],
               "style": "-" if row["mark"] else "--"}
        for row in rows_of(models)
        if row["mark"] or row["assignment"] == "open loop"
    ]  # fmt: skip


def _plain(axis: Axes, which: str) -> None:
    """Log ticks as plain numbers: 0.1, 0.2, 0.5, 1."""
    ticks = getattr(axis, f"{which}axis")
    low, high = getattr(axis, f"get_{which}lim")()
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_formatter(NullFormatter())


def curves(
    rows: Sequence[tuple[str, Sequence[Any], Sequence[float], str, str]], x: str, y: str, name: str, **axes: Any
) -> str:
    """Lines (label, xs, ys, colour, style) with a legend below; few numbers along x are its ticks."""
    figure, axis = _figure(height=3.2 + 0.2 * ((len(rows) + 1) // 2))
    for label, xs, ys, colour, style in rows:
        marker = "o" if style == "-" else "."
        axis.plot(xs, ys, style, marker=marker, markersize=4, color=colour, label=label, linewidth=1.5)
    axis.set(xlabel=x, ylabel=y, **axes)
    for which in ("x", "y"):
        if axes.get(f"{which}scale") == "log":
            _plain(axis, which)
    places = sorted({x for _, xs, *_ in rows for x in xs if not isinstance(x, str)})
    if 0 < len(places) < 8:
        axis.set_xticks(places, [f"{x:g}" for x in places])
        axis.set_xticks([], minor=True)
    if rows:
        axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.19), ncol=2, handlelength=1.8, columnspacing=1)
    return svg(figure, name)


def jitter(models: Results, reference: Results | None, what: str = "jitter") -> str:
    """Share of codes unchanged against the size of a change; defaults solid, open loop dashed, 3Di dotted."""
    rows = [
        (row["label"], *_shares(row["stability"][what]), row["colour"], row["style"])
        for row in lines_of(models)
        if what in row["stability"]
    ]
    if reference:
        rows.append(("3Di letters", *_shares(reference[what]), INK, ":"))
    unit = "coordinate noise σ, Å" if what == "jitter" else f"residues cut off at the {what.removeprefix('crop ')}"
    return curves(rows, unit, "codes unchanged", f"codes unchanged by {what}", ylim=(0, 1.03))


def _shares(found: Results) -> tuple[list[float], list[float]]:
    known = {float(k): v["codes"] for k, v in found.items() if "codes" in v}
    return list(known), list(known.values())


def corruption(models: Results, metric: str, label: str) -> str:
    """A metric against the share of codes replaced."""
    rows = []
    for row in lines_of(models):
        means = {100 * float(k): v[metric]["mean"] for k, v in row["robustness"].items()}
        rows.append((row["label"], list(means), list(means.values()), row["colour"], row["style"]))
    scale = {"yscale": "log"} if metric == "rmsd" else {"ylim": (0, 1.03)}
    return curves(rows, "codes replaced, %", label, f"{label} after corruption", xscale="log", **scale)


def by_size(models: Results, chosen: str, key: str, unit: str) -> str:
    """Mean RMSD by length or number of atoms, default assignments."""
    rows = []
    for row in lines_of(models):
        bins = row["sets"].get(chosen, {}).get(key, {})
        if row["mark"] and bins:
            rows.append((row["tokenizer"], list(bins), [b["mean"] for b in bins.values()], row["colour"], "-"))
    return curves(rows, unit, "mean RMSD, Å", f"RMSD by {unit}", yscale="log")


def codebook_use(models: Results) -> str:
    """Share of all tokens by the rank of the code; a level line would be a codebook fully used."""
    rows = [
        (row["tokenizer"], *zip(*[(r, s) for r, s in row["use"]["rank_frequency"] if s > 0]), row["colour"], "-")
        for row in lines_of(models)
        if row["mark"]
    ]
    return curves(rows, "rank of the code", "share of tokens", "codebook use", xscale="log", yscale="log")


def rate_bars(models: Results) -> str:
    """log2 K, unigram entropy, and the range that the entropy given the code before lies in."""
    rows = lines_of(models)[::-1]
    figure, axis = _figure(height=0.9 + 0.33 * len(rows))
    for i, row in enumerate(rows):
        rate = row["rate"]
        axis.barh(i, rate["bits"], color=row["colour"], alpha=0.18, height=0.72)
        axis.barh(i, rate["unigram_bits_corrected"], color=row["colour"], alpha=0.75, height=0.44)
        if (high := rate.get("bigram_bits_high")) is not None:
            axis.plot([rate["bigram_bits_low"], high], [i, i], color=INK, linewidth=1.6, marker="|", markersize=7)
    axis.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=9)
    axis.set(xlabel="bits per token")
    return svg(figure, "bits per token")


def rate_distortion(models: Results, peers: Results, published: Results, chosen: str, size: float = 4.8) -> Figure:
    """RMSD against bits per residue: ours (default assignment), peers measured here, and published figures."""
    figure, axis = _figure(size, 4.0)
    known = published["proteins"]["models"] if chosen == "CASP14" else {}
    ours = [(r["rate"]["bits"], r["rmsd"]["mean"], r["tokenizer"]) for r in rows_of(models, chosen) if r["mark"]]
    others = [(m["bits"], m["sets"][chosen]["rmsd"], name) for name, m in known.items()]
    ours.sort()
    axis.plot([p[0] for p in ours], [p[1] for p in ours], "o", color=COLOURS[0], label="structok (N, CA, C)")
    if others:
        axis.plot(*zip(*[o[:2] for o in others]), "s", color=COLOURS[3], markersize=5, label="published (CA)")
    if grid := dig(peers, "rounded coordinates", "sets", chosen, "curve"):
        line = [(c["bits"], c["rmsd"]["mean"]) for c in grid if c["bits"] < 26]
        axis.plot(*zip(*line), ".--", color=GREY, linewidth=1, label="coordinates on a grid")
    right, low = 22, [p[1] for p in ours] or [0.05]
    if packed := dig(peers, "foldcomp", "sets", chosen):
        error, text = packed["rmsd"]["mean"], {"color": COLOURS[2], "ha": "right", "va": "center", "fontsize": 9}
        low = [*(p[1] for p in ours), error]
        axis.annotate("", (right, error), (right - 1.6, error), arrowprops={"arrowstyle": "->", "color": COLOURS[2]})
        axis.text(right - 1.7, error, f"Foldcomp, {packed['bits']:.0f} bits", **text)
    every = [*ours, *others]
    for bits, error, name in every:
        # a label goes to the left where another point stands close on the right
        left = any(0 < b - bits <= 4 and abs(math.log10(e / error)) < 0.09 for b, e, _ in every)
        place = {"xytext": (-6, 0), "ha": "right"} if left else {"xytext": (6, 0), "ha": "left"}
        axis.annotate(name, (bits, error), textcoords="offset points", va="center", fontsize=8.5, **place)
    axis.set(xlabel="bits per residue", ylabel=f"mean RMSD, Å ({chosen})", yscale="log")
    axis.set(xlim=(4, right), xticks=range(4, right + 1, 2), ylim=(min(*low, 0.1) * 0.7, 4.0))
    _plain(axis, "y")
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.14), ncol=3, fontsize=8.5, columnspacing=1)
    return figure


def learnability(rows: Results) -> str:
    """RMSD against the bits that a small language model needs per code; a colour per tokenizer."""
    figure, axis = _figure()
    names = list(dict.fromkeys(r["model"] for r in rows.values()))
    for name, colour in zip(names, COLOURS * 3):
        mine = [r for r in rows.values() if r["model"] == name]
        places = [(r["prediction"]["codes"]["bits"]["mean"], r["rmsd"]["mean"]) for r in mine]
        axis.plot(*zip(*places), "o", color=colour, label=name)
        for place, r in zip(places, mine):
            axis.annotate(short(r["assignment"]), place, textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xlabel="bits per code, language model", ylabel="mean RMSD, Å", yscale="log")
    axis.margins(x=0.25, y=0.15)
    _plain(axis, "y")
    axis.legend(fontsize=8.5)
    return svg(figure, "error against learnability")


def tolerance(rows: Sequence[Results]) -> Figure:
    """RMSD against the share of tokens that are a language model's own, a panel per tokenizer, a colour per form."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    _figure()
    figure, axes = plt.subplots(1, len(names), figsize=(4.4 * len(names), 3.6), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        for row, colour in zip([r for r in rows if r["model"] == name], COLOURS):
            for case, style in (("codes", "o--"), ("codes and anchors", "o-")):
                if found := row.get(case):
                    shares = [100 * float(rate) for rate in found]
                    means = [f["rmsd"]["mean"] for f in found.values()]
                    ends = [
                        [abs(f["rmsd"][end] - f["rmsd"]["mean"]) for f in found.values()] for end in ("low", "high")
                    ]
                    label = f"anchors {row['anchors']}" + (f", {case}" if row["anchors"] != "none" else "")
                    line = style if row["anchors"] != "none" else "o-"
                    axis.errorbar(shares, means, ends, fmt=line, color=colour, label=label, markersize=4, capsize=2)
        axis.set(title=name, xlabel="tokens that are the model's own, %", xscale="log", yscale="log")
        axis.grid(alpha=0.25, color=GREY, linewidth=0.6)
        _plain(axis, "x")
        _plain(axis, "y")
    axes[0][0].set(ylabel="mean RMSD, Å")
    axes[0][0].legend(fontsize=8)
    return figure


def pareto(rows: Sequence[Results]) -> list[bool]:
    """Which rows no other beats in both RMSD (lower) and codes unchanged (higher)."""
    values = [(r["rmsd"]["mean"], -r["jitter"]["0.1"]["codes"]) for r in rows]
    return [not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in values) for a in values]


def trade_off(name: str, sweep: Results) -> str:
    """RMSD against codes unchanged, over beam and λ: a line per beam, λ at the points, the Pareto front ringed."""
    figure, axis = _figure(height=3.6)
    rows = sweep["rows"]
    lines: dict[tuple[int, float], list[Results]] = {}
    for row in sorted(rows, key=lambda r: r["options"].get("latent_weight") or 0):
        options = row["options"]
        if options["closed_loop"]:
            lines.setdefault((options.get("beam") or 0, options.get("rate_weight") or 0.0), []).append(row)

    def place(row: Results) -> tuple[float, float]:
        return row["jitter"]["0.1"]["codes"], row["rmsd"]["mean"]

    for ((beam, rate), line), colour in zip(sorted(lines.items()), COLOURS * 3):
        label = f"beam {beam}" + (f", μ {rate:g}" if rate else "")
        axis.plot(*zip(*map(place, line)), "o-", color=colour, markersize=4, linewidth=1.2, label=label)
        for row in line:
            if (weight := row["options"].get("latent_weight")) is not None:
                axis.annotate(f"{weight:g}", place(row), textcoords="offset points", xytext=(4, 3), fontsize=7)
    for row in rows:
        if not row["options"]["closed_loop"]:
            axis.plot(*place(row), "x", color=INK, label="open loop")
    front = [place(row) for row, best in zip(rows, pareto(rows)) if best]
    axis.plot(*zip(*front), "o", markersize=9, fillstyle="none", color=GREY, label="Pareto front")
    axis.set(xlabel="codes unchanged by 0.1 Å of noise", ylabel="mean RMSD, Å", yscale="log")
    _plain(axis, "y")
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.legend(fontsize=8.5)
    return svg(figure, f"accuracy against stability of {name}, 0.1 Å of noise")

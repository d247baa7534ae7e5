"""A calibration report as one HTML file that needs nothing else: pictures inside, two themes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prolip_search.train.calibration.reliability import COSINE, Figures

Pictures = Mapping[str, Mapping[str, bytes]]  # name -> "light" | "dark" -> PNG

STYLE = """
:root { color-scheme: light dark; --ground:#f4f6f8; --card:#fff; --ink:#1d2733; --faint:#5f6b78;
  --line:#e2e7ec; --ours:#2f7ea8; --good:#2d7a46; --bad:#a8452f; }
@media (prefers-color-scheme: dark) { :root { --ground:#0f1318; --card:#161b22; --ink:#e3e9ef;
  --faint:#8d99a6; --line:#2b333d; --ours:#62b5dd; --good:#7cc48f; --bad:#e38a74; } }
* { box-sizing: border-box }
body { margin:0; background:var(--ground); color:var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 3rem 1.25rem 5rem }
h1 { font-size: 1.9rem; line-height:1.2; margin:0 0 .4rem; letter-spacing:-.01em }
h2 { font-size: 1.15rem; margin: 0 0 .3rem }
p { margin: .3rem 0 .8rem; max-width: 68ch } .faint { color: var(--faint) }
code { font: .88em ui-monospace, Menlo, Consolas, monospace; overflow-wrap:anywhere }
.tiles { display:grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap:.9rem;
  margin: 1.6rem 0 }
.tile, section { background:var(--card); border:1px solid var(--line); border-radius:12px }
.tile { padding: 1rem 1.1rem } .tile b { display:block; font-size:1.65rem; line-height:1.2;
  font-variant-numeric: tabular-nums } .tile span { color:var(--faint); font-size:.86rem }
section { padding: 1.3rem 1.4rem; margin: 1rem 0; display:grid; gap: .4rem 1.6rem;
  grid-template-columns: minmax(0,1fr) }
@media (min-width: 860px) { section.two { grid-template-columns: minmax(0,1.1fr) minmax(0,1fr) } }
picture img { width:100%; height:auto; display:block }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:.88rem;
  font-variant-numeric:tabular-nums }
th, td { text-align:right; padding:.38rem .55rem; border-bottom:1px solid var(--line);
  white-space:nowrap } th { font-weight:600; color:var(--faint) }
th:first-child, td:first-child { text-align:left } tr.ours td { color:var(--ours); font-weight:600 }
.good { color:var(--good) } .bad { color:var(--bad) }
"""


def report_page(report: Figures, pictures: Pictures) -> str:
    """The page of what `cli.evaluate` gathered: the same figures as in its JSON."""
    pairs, first = report["judged pairs"], report["first results"]
    ours, raw = pairs["scores"]["confidence"], pairs["scores"]["raw sigmoid"]
    body = [
        "<h1>Does confidence keep its word?</h1>",
        f"<p class=faint>Encoder <code>{escape(report['encoder'])}</code>, fingerprint <code>"
        f"{escape(report['fingerprint'][:16])}…</code>. {escape(_data(report))}</p>",
        "<div class=tiles>",
        _tile(_number(ours["smECE"]["value"]), "calibration error (smECE) of judged pairs; a "
              f"perfect predictor shows {_number(ours['smECE, floor'])}"),
        _tile(_number(raw["smECE"]["value"]), "the same of the raw model probability"),
        _tile(_number(ours["auroc"]["value"]), "AUROC of matches against non-matches"),
        _tile(f"{first['right'] / max(first['first results'], 1):.0%}",
              f"of {first['first results']:,} first results that were judged are right"),
        "</div>",
        _first(first, report["first targets"], pictures),
        _section("What 80 % means", "Of pairs with a confidence of 80 %, eight in ten should be "
                 "matches. Bands hold 95 % of a bootstrap over queries.",
                 _scores(pairs), pictures.get("reliability")),
        _section("What is shown at each rank", "Judged pairs were picked by other systems and fit "
                 "more often than what a search finds. Among all results of a rank the share of "
                 "matches lies between the two bounds: at least the known ones, at most as many "
                 "of the unjudged as of the judged.", _ranks(pairs["by rank"]),
                 pictures.get("ranks")),
    ]  # fmt: skip
    if report.get("short results"):
        body.append(_short(report["short results"]))
    if report.get("none"):
        body.append(_none(report["none"]))
    if report.get("coverage"):
        body.append(
            _section("Lists that hold the target", "A cutoff keeps as many results as it takes "
                     "for the photo that a caption was written for. Its pairs and the tested "
                     "captions share no photo; a fixed rank of the same coverage stands beside "
                     "it. “Confident” keeps its promise in 9 of 10 calibrations, “average” on "
                     "average over them.", _coverage(report["coverage"]),
                     pictures.get("coverage"))
        )  # fmt: skip
    body.append(_section("How this was made", report["method"], ""))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><title>Calibration report</title>"
        f"<style>{STYLE}</style><main>{''.join(body)}</main></html>\n"
    )


def verdict(first: Figures, about: str) -> str:
    """In words: whether our confidence tells right first results from wrong ones better."""
    if "scores" not in first:
        return f"Too few first results are right, or wrong, to compare anything ({about})."
    difference = first["differences of AUROC"][COSINE]
    low, high = difference["interval"]
    return (
        f"Confidence {first['verdict']} top-1 cosine ({about}): AUROC "
        f"{first['scores']['confidence']['auroc']['value']:.3f} against "
        f"{first['scores'][COSINE]['auroc']['value']:.3f}, difference {difference['value']:+.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f}, over queries)."
    )


def _data(report: Figures) -> str:
    pairs = report["judged pairs"]
    return (
        f"{pairs['pairs']:,} judged pairs of {pairs['texts']:,} texts and {pairs['photos']:,} "
        f"photos, {pairs['yes']:,} of them matches, none of them seen in fitting."
    )


def _first(first: Figures, targets: Figures | None, pictures: Pictures) -> str:
    heading = "Right first results from wrong ones"
    words = [verdict(first, "people's judgement of the first result")]
    if targets is not None:
        words.append(verdict(targets, "is it the very photo the caption was written for"))
    table = "".join(
        _telling(some, title)
        for some, title in ((first, "judged"), (targets, "own photo"))
        if some is not None and "scores" in some
    )
    return _section(heading, " ".join(words), table, pictures.get("risk"))


def _telling(first: Figures, title: str) -> str:
    rows = [
        [name, _interval(score["auroc"]), _interval(score["e-aurc"])]
        for name, score in first["scores"].items()
    ]
    return _table([f"right: {title}", "AUROC", "E-AURC"], rows)


def _scores(pairs: Figures) -> str:
    rows = []
    for name, some in pairs["scores"].items():
        error = _interval(some["smECE"]) if "smECE" in some else "–"
        rows.append([name, error, _cell(some, "smECE, floor"), _cell(some, "Brier"),
                     _cell(some, "Brier, reliability"), _cell(some, "Brier, resolution"),
                     _cell(some, "log loss"), _interval(some["auroc"])])  # fmt: skip
    heads = ["", "smECE", "floor", "Brier", "reliability", "resolution", "log loss", "AUROC"]
    shown = []
    for name, some in pairs["scores"].items():
        if "smECE" in some:
            shown.append([name, _cell(some, "smECE, weighted"),
                          _cell(some, "smECE, ranks 1 to 10"),
                          _cell(some, "smECE, ranks 1 to 10, weighted"),
                          _cell(some, "smECE, ranks 1 to 10, floor")])  # fmt: skip
    return _table(heads, rows) + _table(
        ["smECE", "weighted", "ranks 1–10", "the same, weighted", "floor"], shown
    )


def _ranks(by_rank: Sequence[Figures]) -> str:
    names = ("mean confidence", "at least", "at most", "yes among judged")
    rows = [
        [row["ranks"], f"{row['results']:,}", f"{row['judged']:,}", *(_cell(row, n) for n in names)]
        for row in by_rank
        if row["results"]
    ]
    return _table(["rank", "results", "judged", *names], rows)


def _coverage(table: Sequence[Figures]) -> str:
    rows = [
        [f"{row['pairs']:,}", row["mode"],
         _interval({"value": row["coverage"], "interval": row["interval"]}),
         f"{row['mean of splits']:.3f}", f"{row['share of splits below']:.2f}",
         f"{row['median length']:.0f}", f"{row['fixed rank of equal coverage']}"]
        for row in table
    ]  # fmt: skip
    heads = ["pairs", "mode", "held", "mean", "below", "median list", "fixed rank"]
    return _table(heads, rows, ours=False)


def _short(short: Figures) -> str:
    error = short["smECE"]
    return _section(
        "Short queries",
        "First results of words that captions agree on, each word's by a fit without it. smECE "
        f"{_number(error['confidence'])} (perfect: {_number(short['smECE, floor'])}), without any "
        f"short queries in the fit {_number(error['without short queries'])}.",
        _table(
            ["gallery", "results", "confidence", "match by captions", "without short queries"],
            [[name, f"{some['results']:,}", _number(some["mean confidence"]),
              _number(some["matches"]), _number(some["mean without short queries"])]
             for name, some in short["by sort"].items()],
        ),
    )  # fmt: skip


def _none(none: Figures) -> str:
    return _section(
        "When nothing matches",
        f"{none['searches']:,} searches of captioned photos, half of them in a gallery whose "
        "answers were taken out (five-fold, split by photo).",
        _table(
            ["", "AUROC", "smECE", "floor"],
            [["none_probability", _number(none["auroc"]), _number(none["smECE"]),
              _number(none["smECE, floor"])],
             ["top logit alone", _number(none["auroc of the top logit"]), "–", "–"]],
        ),
    )  # fmt: skip


def _section(title: str, text: str, table: str, picture: Mapping[str, bytes] | None = None) -> str:
    words = f"<div><h2>{escape(title)}</h2><p>{escape(text)}</p>{table}</div>"
    if picture is None:
        return f"<section>{words}</section>"
    light, dark = (base64.b64encode(picture[name]).decode() for name in ("light", "dark"))
    return (
        f"<section class=two>{words}<picture>"
        f"<source media='(prefers-color-scheme: dark)' srcset='data:image/png;base64,{dark}'>"
        f"<img alt='{escape(title)}' src='data:image/png;base64,{light}'></picture></section>"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], ours: bool = True) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(
        f"<tr{' class=ours' if ours and i == 0 else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<div class=scroll><table><tr>{head}</tr>{lines}</table></div>"


def _tile(value: str, what: str) -> str:
    return f"<div class=tile><b>{escape(value)}</b><span>{escape(what)}</span></div>"


def _cell(figures: Figures, name: str) -> str:
    value: Any = figures.get(name)
    return "–" if value is None else _number(value)


def _number(value: float) -> str:
    return f"{value:.3f}"


def _interval(figure: Figures) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f}–{high:.3f})"

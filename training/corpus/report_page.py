"""The report of a prepared corpus: counts that add up, and examples of dropped offers.

`report.json` holds the counts, `pictures/` the charts, and `report.html` shows everything on one page, which loads
nothing and runs no script.
"""

import base64
import html
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.corpus.report_charts import (
    DroppedExample,
    ShownExample,
    Tile,
    as_share,
    as_words,
    draw_catalog_sizes,
    draw_dropped,
    draw_funnel,
    draw_mismatch_scores,
    draw_title_lengths,
    out_of,
    shown_title,
    visible,
)
from training.data.files import write_json

__all__ = ["DroppedExample", "write_corpus_report"]

_NUMBERS = ("offers", "share", "seconds")  # columns of tables that hold numbers
_OF_THE_REPORT = re.compile(r"(funnel|title_lengths|catalog_sizes|mismatch_scores|dropped_.*)\.png")
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Corpus report</title>
<style>
:root { color-scheme: light dark; --line: #8886; --quiet: #5a5a5a; --tile: #8881; }
@media (prefers-color-scheme: dark) { :root { --quiet: #b0b0b0; } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 0 1rem 3rem; }
h1, h2, h3 { line-height: 1.25; }
h2 { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1rem; }
img { background: white; border-radius: 5px; display: block; height: auto; }
.wide { overflow-x: auto; }
.chart img { max-width: 100%; min-width: 32rem; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem 1rem .3rem 0; text-align: start; vertical-align: top; }
tbody th { font-weight: inherit; }
tfoot { font-weight: 600; }
.text { min-width: 6rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.number { font-variant-numeric: tabular-nums; text-align: end; white-space: nowrap; }
.offers { display: flex; flex-wrap: wrap; gap: .75rem; list-style: none; padding: 0; }
.offers li { background: var(--tile); border-radius: 8px; display: flex; gap: .5rem; padding: .5rem; }
.offers li { overflow: hidden; }
.halves { table-layout: fixed; width: 100%; }
@media (max-width: 30rem) { table { font-size: .875rem; } th, td { padding-right: .5rem; } }
figure { margin: 0; width: 8.5rem; }
figure img { width: 100%; }
figcaption { font-size: .8rem; line-height: 1.35; margin-top: .35rem; overflow-wrap: anywhere; }
figcaption span { color: var(--quiet); display: block; }
</style>
</head>
<body>
<main>
"""
_FOOT = "</main>\n</body>\n</html>\n"


def write_corpus_report(
    folder: Path, report: Mapping[str, Any], examples: Mapping[str, Sequence[DroppedExample]]
) -> None:
    """Write the report: `report.json`, `report.html`, and PNG files in `pictures/`.

    Args:
        folder: Folder of the report; charts of an earlier report in it are replaced.
        report: Number of offers in the input (`input`), kept (`kept`), and dropped by reason (`dropped`). Optional
            entries are shown where they are given: `funnel`, `skipped_files`, `titles`, `mismatches`, `catalogs`,
            `splits`, `settings`, `seconds`.
        examples: For each reason some of the offers that were dropped for it.

    Raises:
        ValueError: the counts do not add up, or are not finite numbers.
    """
    _check_counts(report, examples)
    charts = folder / "pictures"
    charts.mkdir(parents=True, exist_ok=True)
    write_json(dict(report), folder / "report.json", allow_nan=False)
    for file in charts.iterdir():
        if _OF_THE_REPORT.fullmatch(file.name):
            file.unlink()
    shown = {reason: [ShownExample.of(example) for example in found] for reason, found in examples.items() if found}
    sections = [
        *_funnel(report, charts),
        *_reasons(report),
        *_skipped_files(report),
        *_titles(report, charts),
        *_dropped(report, shown, charts),
        *_mismatches(report, charts),
        *_catalogs(report, charts),
        *_splits(report),
        *_settings(report),
        *_seconds(report),
    ]
    heading = f"<h1>Corpus report</h1>\n<p>Kept: {out_of(report['kept'], report['input'])}.</p>"
    page = _HEAD + "\n".join([heading, *sections]) + "\n" + _FOOT
    (folder / "report.html").write_text(page, encoding="utf-8")


def _check_counts(report: Mapping[str, Any], examples: Mapping[str, Sequence[DroppedExample]]) -> None:
    """Refuse counts in which offers are missing or counted twice."""
    missing = [name for name in ("input", "kept", "dropped") if name not in report]
    if missing:
        raise ValueError(f"the report has no {' and no '.join(map(repr, missing))}; give it.")
    given, kept, dropped = report["input"], report["kept"], report["dropped"]
    funnel = report.get("funnel") or []
    every = [given, kept, *dropped.values()]
    every += [rows for step in funnel for rows in (step["before"], step["after"], *step["dropped"].values())]
    if min(every) < 0:
        raise ValueError(f"{min(every)} offers are less than none; correct the counts.")
    _check_sum("the report", given, dropped, kept, "kept")
    left, by_reason = given, Counter[str]()
    for step in funnel:
        if step["before"] != left:
            raise ValueError(f"step {step['step']!r} got {step['before']:,} offers, but {left:,} were left before it.")
        _check_sum(f"step {step['step']!r}", step["before"], step["dropped"], step["after"], "left")
        left = step["after"]
        by_reason.update(step["dropped"])
    if funnel and left != kept:
        raise ValueError(f"the last step left {left:,} offers, but {kept:,} were kept.")
    for reason in {**by_reason, **dropped} if funnel else {}:
        if by_reason[reason] != dropped.get(reason, 0):
            raise ValueError(
                f"{dropped.get(reason, 0):,} offers were dropped for {reason!r}, of which the steps dropped "
                f"{by_reason[reason]:,}."
            )
    for reason, found in examples.items():
        if len(found) > dropped.get(reason, 0):
            raise ValueError(f"{len(found)} examples of {reason!r}, for which {dropped.get(reason, 0)} were dropped.")


def _check_sum(what: str, before: int, dropped: Mapping[str, int], after: int, word: str) -> None:
    lost = sum(dropped.values())
    if before - lost != after:
        raise ValueError(
            f"{what}: of {before:,} offers {lost:,} were dropped and {after:,} {word}, which leaves "
            f"{before - lost - after:,} uncounted."
        )


def _funnel(report: Mapping[str, Any], charts: Path) -> Iterable[str]:
    if "funnel" in report:
        path = charts / "funnel.png"
        draw_funnel(report["input"], report["funnel"], path)
        left = "; ".join(f"{as_words(step['step'])}: {step['after']:,} left" for step in report["funnel"])
        yield "<h2>Offers left by each step</h2>"
        yield "<p>Each bar stands for all offers. Its grey end shows what earlier steps dropped.</p>"
        yield _chart(path, f"Bars of the offers left by each step. {report['input']:,} offers; {left}")


def _reasons(report: Mapping[str, Any]) -> Iterable[str]:
    given, kept, dropped = report["input"], report["kept"], report["dropped"]
    steps = {reason: step["step"] for step in report.get("funnel") or [] for reason in step["dropped"]}
    rows = [
        (as_words(reason), as_words(steps.get(reason, "")), f"{rows:,}", as_share(rows, given))
        for reason, rows in dropped.items()
    ]
    lost = sum(dropped.values())
    totals = [
        ("dropped", "", f"{lost:,}", as_share(lost, given)),
        ("kept", "", f"{kept:,}", as_share(kept, given)),
        ("all offers", "", f"{given:,}", as_share(given, given)),
    ]
    yield "<h2>Why offers were dropped</h2>"
    yield _table(("reason", "step", "offers", "share"), rows, totals)


def _skipped_files(report: Mapping[str, Any]) -> Iterable[str]:
    if report.get("skipped_files"):
        yield "<h2>Files that could not be read</h2>"
        yield "<p>Their offers are in none of these counts.</p>"
        yield _table(("file", "error"), report["skipped_files"].items())


def _titles(report: Mapping[str, Any], charts: Path) -> Iterable[str]:
    titles = report.get("titles")
    if titles is None:
        return
    yield "<h2>Titles</h2>"
    if "changed" in titles:
        yield f"<p>{titles['changed']:,} titles were changed.</p>"
    lengths = {name: titles[f"words_{name}"] for name in ("before", "after") if f"words_{name}" in titles}
    if lengths:
        path = charts / "title_lengths.png"
        draw_title_lengths(lengths, path)
        yield _chart(path, f"Histogram of the number of words in a title, {' and '.join(lengths)} cleaning")
    for rule, found in titles.get("rules", {}).items():
        yield f"<h3>{_safe(as_words(rule))}: {found['rows']:,} titles</h3>"
        if found.get("examples"):
            yield _table(("before", "after"), found["examples"], is_halved=True)


def _dropped(report: Mapping[str, Any], shown: Mapping[str, Sequence[ShownExample]], charts: Path) -> Iterable[str]:
    if shown:
        yield "<h2>Dropped offers</h2>"
    for reason, found in shown.items():
        rows = report["dropped"][reason]
        draw_dropped(reason, rows, found, charts / ("dropped_" + re.sub(r"[^\w-]+", "_", reason) + ".png"))
        yield f"<h3>{_safe(as_words(reason))}: {rows:,} dropped, {len(found):,} shown</h3>"
        yield '<ul class="offers">'
        for example, tile, other_tile in found:
            yield f"<li>{_offer(tile, example.title, 'Dropped offer', (example.why, f'id {example.id}'))}"
            if other_tile is not None:
                yield _offer(other_tile, example.other_title, "Kept offer", ("kept instead",))
            yield "</li>"
        yield "</ul>"


def _mismatches(report: Mapping[str, Any], charts: Path) -> Iterable[str]:
    mismatches = report.get("mismatches")
    if mismatches is None:
        return
    yield "<h2>Titles and images that do not belong together</h2>"
    if len(mismatches.get("counts", ())):
        path = charts / "mismatch_scores.png"
        draw_mismatch_scores(mismatches, path)
        yield _chart(path, f"Histogram of the scores of {mismatches['scored']:,} offers")
    yield from _facts({as_words(name): mismatches[name] for name in mismatches if name not in ("counts", "edges")})


def _catalogs(report: Mapping[str, Any], charts: Path) -> Iterable[str]:
    catalogs = report.get("catalogs")
    if catalogs is None:
        return
    yield "<h2>Catalogs</h2>"
    if "sizes" in catalogs:
        path = charts / "catalog_sizes.png"
        draw_catalog_sizes(catalogs["sizes"], path)
        yield _chart(path, f"Bars of the number of catalogs of each size, {sum(catalogs['sizes'].values()):,} in all")
    yield from _facts({as_words(name): catalogs[name] for name in catalogs if name != "sizes"})


def _splits(report: Mapping[str, Any]) -> Iterable[str]:
    if "splits" in report:
        splits = report["splits"]
        total = sum(splits.values())
        rows = [(as_words(name), f"{rows:,}", as_share(rows, total)) for name, rows in splits.items()]
        yield "<h2>Splits</h2>"
        yield _table(("split", "offers", "share"), rows, [("all", f"{total:,}", as_share(total, total))])


def _settings(report: Mapping[str, Any]) -> Iterable[str]:
    if "settings" in report:
        yield "<h2>Settings</h2>"
        yield from _facts(report["settings"])


def _seconds(report: Mapping[str, Any]) -> Iterable[str]:
    if "seconds" in report:
        seconds = report["seconds"]
        rows = [(as_words(name), f"{took:,.1f}") for name, took in seconds.items()]
        yield "<h2>Times</h2>"
        yield _table(("step", "seconds"), rows, [("all", f"{sum(seconds.values()):,.1f}")])


def _facts(facts: Mapping[str, Any]) -> Iterable[str]:
    if facts:
        yield _table(("name", "value"), [(name, _value(value)) for name, value in facts.items()])


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else json.dumps(value, ensure_ascii=False)


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    totals: Iterable[Sequence[str]] = (),
    is_halved: bool = False,
) -> str:
    """Return a table of plain text; the first cell of a row names it."""
    kinds = ["number" if name in _NUMBERS else "text" for name in head]
    lines = ['<div class="wide">', '<table class="halves">' if is_halved else "<table>", "<thead>", "<tr>"]
    lines += [f'<th scope="col" class="{kind}">{_safe(name)}</th>' for kind, name in zip(kinds, head, strict=True)]
    lines += ["</tr>", "</thead>"]
    for part, rows_of_part in (("tbody", rows), ("tfoot", totals)):
        lines.append(f"<{part}>")
        for first, *others in rows_of_part:
            cells = zip(kinds[1:], others, strict=True)
            columns = "".join(f'<td class="{kind}">{_safe(cell)}</td>' for kind, cell in cells)
            lines.append(f'<tr><th scope="row" class="{kinds[0]}">{_safe(first)}</th>{columns}</tr>')
        lines.append(f"</{part}>")
    return "\n".join([*lines, "</table>", "</div>"])


def _chart(path: Path, words: str) -> str:
    image = _image(path.read_bytes(), "png", f"{words}.")
    return f'<div class="wide chart">{image}</div>'


def _offer(tile: Tile, title: str, what: str, notes: Sequence[str]) -> str:
    file = io.BytesIO()
    tile.image.save(file, "JPEG", quality=85)
    image = _image(file.getvalue(), "jpeg", f"{what}: {tile.problem or 'its image'}")
    lines = "".join(f"<span>{_safe(note)}</span>" for note in notes if note)
    return f"<figure>{image}<figcaption><bdi>{_safe(shown_title(title), 160)}</bdi>{lines}</figcaption></figure>"


def _image(content: bytes, kind: str, words: str) -> str:
    address = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{kind};base64,{address}" alt="{_safe(words, 1000)}">'


def _safe(text: str, max_length: int = 300) -> str:
    """Return a text of unknown origin as HTML. All text on the page goes through this function."""
    return html.escape(visible(text, max_length))

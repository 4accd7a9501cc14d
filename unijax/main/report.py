"""One self-contained HTML page from the results of runs."""

import base64
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from unijax.core.files import atomic_file
from unijax.core.system import Loss
from unijax.evaluate.judged import Answered, Drawn
from unijax.train.writers import FILE as LOG
from unijax.train.writers import read_log

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em;
       color: #222; background: #fff }
h1 { font-size: 1.7em; margin-bottom: .2em } h2 { margin-top: 2em; border-bottom: 1px solid #ddd }
.headline { font-size: 1.15em; background: #f2f6fc; padding: .7em 1em; border-radius: 6px }
.cards { display: flex; flex-wrap: wrap; gap: 10px }
.card { width: 164px; border: 1px solid #ddd; border-radius: 6px; padding: 8px; font-size: 12px }
.card.wide { width: 250px } .card.right { border-color: #7cb37c } .card.wrong { border-color: #d99 }
.card img { width: 72px; height: 72px; image-rendering: auto; background: #fff }
.card .pair { display: flex; justify-content: space-between }
.card figure { margin: 0; text-align: center; color: #777 }
table { border-collapse: collapse } td, th { padding: 3px 12px; border-bottom: 1px solid #eee;
       text-align: left; vertical-align: top }
.note { color: #666 } svg { max-width: 100%; height: auto }
"""


def read_curves(run_dir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl that hold scalars."""
    return [row for row in read_log(run_dir / LOG) if "texts" not in row]


def write(path: pathlib.Path, title: str, headline: str, parts: Sequence[str]) -> None:
    """Writes the page.

    Args:
      headline: one line of plain text, also printed on the terminal by the caller.
      parts: of the page, HTML.
    """
    head = f"<h1>{html.escape(title)}</h1><p class=headline>{html.escape(headline)}</p>"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><body>{head}{''.join(parts)}</body></html>\n"
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def section(title: str, note: str, body: str) -> str:
    """A heading, a paragraph that says what is shown (or ""), and what is shown, as HTML."""
    said = f"<p class=note>{html.escape(note)}</p>" if note else ""
    return f"<h2>{html.escape(title)}</h2>{said}{body}"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of plain texts."""
    cells = lambda row, of: "".join(f"<{of}>{html.escape(cell)}</{of}>" for cell in row)  # noqa: E731
    lines = [cells(head, "th")] * bool(head) + [cells(row, "td") for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def cards(found: Sequence[Drawn | Answered]) -> str:
    """A card each, side by side."""
    return f"<div class=cards>{''.join(map(_card, found))}</div>"


def beside(names: Sequence[str], drawn: Sequence[Sequence[Drawn]]) -> str:
    """A prompt and its true picture a row, what each of several drew for it a column."""
    rows = ["".join(f"<th>{html.escape(name)}</th>" for name in ("", "real", *names))]
    for of_prompt in zip(*drawn, strict=True):
        first = of_prompt[0]
        cells = [f"<td>{html.escape(first.prompt)}</td><td>{_image(first.real, '')}</td>"]
        for one in of_prompt:
            mark, note = "right" if one.right else "wrong", html.escape(one.note)
            cells.append(f"<td><div class='card {mark}'>{_image(one.drawn, note)}</div></td>")
        rows.append("".join(cells))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _image(pixels: np.ndarray, caption: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><br>{caption}</figure>'


def _card(card: Drawn | Answered) -> str:
    if isinstance(card, Drawn):
        mark = "right" if card.right else "wrong"
        said = f"<div class=note>{html.escape(card.note)}</div>" if card.note else ""
        pictures = _image(card.drawn, "drawn") + _image(card.real, "real")
        return (
            f"<div class='card {mark}'><div class=pair>{pictures}</div>"
            f"{html.escape(card.prompt)}{said}</div>"
        )
    mark = {True: "right", False: "wrong", None: ""}[card.right]
    picture = "" if card.picture is None else f"<div class=pair>{_image(card.picture, '')}</div>"
    truth = (
        f"<div class=note>true: {html.escape(card.truth)}</div>"
        if card.truth and not card.right
        else ""
    )
    return (
        f"<div class='card wide {mark}'>{picture}<div class=note>{html.escape(card.question)}</div>"
        f"<b>{html.escape(card.answer)}</b>{truth}</div>"
    )


def plot(curves: Sequence[dict], losses: Mapping[str, Loss]) -> str:
    """Training and held-out losses of a system, a panel each, as SVG; rows of `read_curves`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in losses if any(f"{name}/loss" in row for row in curves)]
    figure, panels = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), squeeze=False)
    for panel, name in zip(panels[0], names):
        for key, style, label in (
            (f"{name}/loss", "-", "training"),
            (f"validation/{name}/loss", "o--", "held out"),
        ):
            points = [(r["step"], r[key]) for r in curves if key in r]
            if points:
                panel.plot(*zip(*points), style, label=label, markersize=3, linewidth=1.3)
        panel.set_title(losses[name].title, fontsize=10)
        panel.set_xlabel("step", fontsize=9)
        panel.set_ylabel(losses[name].unit, fontsize=9)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.tick_params(labelsize=8)
        panel.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]

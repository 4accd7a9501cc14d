"""The last results of a device check, put where people and kernels read them.

    python -m bench.device_check.report .device-check/results.jsonl            # prints the tables
    python -m bench.device_check.report .device-check/results.jsonl --write

With `--write` the tables go into docs/device.md and the sizes of blocks that were found into the
table that the kernels read: the machine that was measured may keep nothing.
"""

import argparse
import json
import pathlib
import re

DOCS = pathlib.Path("docs/device.md")
MARKS = "<!-- results -->", "<!-- end of results -->"
LEFT_OUT = ("part", "ok", "talk", "entry")


def read(path: pathlib.Path) -> list[dict]:
    """Results, also of a file whose last line was cut."""
    found = []
    for text in path.read_text().splitlines():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return found


def tables(results: list[dict]) -> str:
    """Markdown: a table for each part, with a column for each thing that it tells."""
    blocks = []
    for part in dict.fromkeys(r["part"] for r in results if "part" in r):
        mine = [r for r in results if r.get("part") == part]
        told = [r for r in mine if "name" in r]
        ended = next((r for r in mine if "ended" in r), {"ended": "cut off"})
        seconds = f", {ended['seconds']:.0f} s" if "seconds" in ended else ""
        blocks.append(f"**{part}**: {ended['ended']}{seconds}.")
        if told:
            blocks.append(_table(told))
    return "\n\n".join(blocks)


def _table(told: list[dict]) -> str:
    keys = [k for k in dict.fromkeys(k for r in told for k in r) if k not in LEFT_OUT]
    lines = ["| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
    lines += ["| " + " | ".join(_cell(r.get(key)) for key in keys) + " |" for r in told]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_cell(x)}" for key, x in value.items())
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "/")


def begun(results: list[dict]) -> str:
    """What was measured, from the first line."""
    first = next((r for r in results if "device" in r), None)
    if first is None:
        return "An unknown device."
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    return f"{first['date']}, {first['device']}, {versions}."


def write(results: list[dict], docs: pathlib.Path = DOCS) -> None:
    """Tables into the page, sizes into their table."""
    body = "\n".join([MARKS[0], begun(results), "", tables(results), MARKS[1]])
    pattern = re.compile(re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1]), re.DOTALL)
    text, count = pattern.subn(lambda _: body, docs.read_text())
    assert count == 1, docs
    docs.write_text(text)
    from bench import attention_tune
    from unijax.ops.attention.block_sizes import Entry

    entries = [Entry(**r["entry"]) for r in results if "entry" in r and r.get("ok", True)]
    attention_tune.write(entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    results = read(options.results)
    if options.write:
        write(results)
    else:
        print(begun(results), tables(results), sep="\n\n")


if __name__ == "__main__":
    main()

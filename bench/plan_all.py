"""Plans every shipped full-size config on the hardware that it names, and a scaling table.

    make plan-all
    .venv-compile/bin/python -m bench.plan_all [--scaling] [--only pro.py:1b] [--table-only]

A program that was compiled before, by the same compilers, is not compiled again: results lie in
`.plan/` under the hash of the program, so that what was interrupted goes on. Rewrites the tables of
docs/plan.md, whose lines carry that hash. Ends with status 1 if a config does not fit.
"""

import argparse
import pathlib
import re
import sys

from unijax.core.errors import UserError
from unijax.main import config as config_lib
from unijax.main import plan as plan_lib
from unijax.main.plan import Plan
from unijax.main.run import RunConfig, resolve
from unijax.plan import target

DOCS = pathlib.Path("docs/plan.md")
CACHE = pathlib.Path(".plan")
FULL_SIZE = [
    *(f"configs/janus_pro.py:{size},stage{n}" for size in ("1b", "7b") for n in (2, 3, 1)),
    *(f"configs/janus.py:stage{n}" for n in (2, 3, 1)),
    "configs/finetune.py",
]
# Rows a chip, so that all sizes do the same work on each: 4 of 1.5B, 1 of 7B.
SCALING = {
    "1.5B": ("configs/janus_pro.py:1b,stage3", 4),
    "7B": ("configs/janus_pro.py:7b,stage3", 1),
}
SLICES = {
    "v5p": ("2x2x2", "2x4x4", "4x4x8", "8x8x8"),
    "v6e": ("2x4", "4x8", "8x16", "16x16*2"),
    "h100": ("8", "8*4", "8*16", "8*64"),
}
HEADS = {
    "configs": "| config | hardware | fits | GiB a device: parameters + optimizer + batch + "
    "temporaries + rest = all of what there is | step at least (s) | MFU at most | in turn | "
    "bottleneck | program |\n|---|---|---|---|---|---|---|---|---|",
    "scaling": "| model | chips | step (s), all at once to in turn | MFU, all at once to in turn | "
    "tokens/s, in turn | bottleneck | program |\n|---|---|---|---|---|---|---|",
}


def gib(n: float) -> str:
    return f"{n / 2**30:.1f}"


def config_line(name: str, p: Plan) -> str:
    m = p.memory
    bytes_ = " + ".join(map(gib, (m.parameters, m.optimizer, m.batch, m.temporaries, m.other)))
    fits = "yes" if p.fits else f"**no** {p.refusal}"
    line = p.roofline
    rest = ["", "", "", ""]
    if line is not None:
        rest = [
            f"{line.seconds:.3f}",
            f"{line.mfu:.0%}",
            f"{line.mfu_in_turn:.0%}",
            line.bottleneck,
        ]
    cells = [
        f"`{name}`",
        f"`{p.topology}`",
        fits,
        f"{bytes_} = {gib(m.total)} of {gib(m.capacity)}",
    ]
    return "| " + " | ".join([*cells, *rest, f"`{p.digest}`"]) + " |"


def scaling_line(size: str, p: Plan) -> str:
    line = p.roofline
    if line is None or not p.fits:
        return f"| {size} | `{p.topology}` | does not fit {p.refusal} | | | | `{p.digest}` |"
    return "| " + " | ".join(
        [
            size,
            f"`{p.topology}`",
            f"{line.seconds:.3f} to {line.seconds_in_turn:.3f}",
            f"{line.mfu:.0%} to {line.mfu_in_turn:.0%}",
            f"{p.tokens / line.seconds_in_turn:,.0f}",
            line.bottleneck,
            f"`{p.digest}`",
        ]
    ) + " |"  # fmt: skip


def put(table: str, key: str, line: str) -> None:
    """The line of `key` in a table of docs/plan.md, in place of an older one."""
    text = DOCS.read_text()
    begin, end = f"<!-- {table} -->\n", f"<!-- end of {table} -->"
    before, rest = text.split(begin)
    inside, after = rest.split(end)
    lines = [x for x in inside.splitlines() if x.startswith("| ") and x not in HEADS[table]]
    lines = [x for x in lines if not x.startswith(key)] + [line]
    inside = "\n".join([HEADS[table], *sorted(lines, key=_in_order)])
    DOCS.write_text(f"{before}{begin}{inside}\n{end}{after}")


def _in_order(line: str) -> tuple:
    return tuple(int(x) if x.isdigit() else x for x in re.split(r"(\d+)", line.split("| `")[0]))


def planned(run: RunConfig, topology: str) -> Plan:
    return plan_lib.plan(run, plan_lib.topology_of(run, topology), {}, CACHE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scaling", action="store_true", help="the scaling table in their place")
    parser.add_argument("--only", default="", help="regular expression of names, as in the table")
    options = parser.parse_args()
    target.prepare()
    bad = []
    if not options.scaling:
        for name in FULL_SIZE:
            if not re.search(options.only, name):
                continue
            p = planned(resolve(config_lib.load(name)), "")
            put("configs", f"| `{name}` ", config_line(name, p))
            print(config_line(name, p), flush=True)
            bad += [] if p.fits else [name]
    else:
        cells = [(s, c, f"{c}:{x}") for c, all_ in SLICES.items() for x in all_ for s in SCALING]
        for size, _, topology in cells:
            if not re.search(options.only, f"{size} {topology}"):
                continue
            name, rows = SCALING[size]
            run = resolve(config_lib.load(name))
            chips = plan_lib.topology_of(run, topology).size
            run = resolve(config_lib.load(name), [f"data.rows={rows * chips}"])
            if "*" in topology and not topology.startswith("h100"):
                run = plan_lib.changed(run, {"mesh.data": int(topology.split("*")[1])})
            try:
                p = planned(run, topology)
            except UserError as refused:
                print(f"{size} {topology}: {refused}", file=sys.stderr)
                continue
            put("scaling", f"| {size} | `{topology}` ", scaling_line(size, p))
            print(scaling_line(size, p), flush=True)
    if bad:
        print("do not fit: " + ", ".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

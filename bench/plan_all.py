"""Plans every shipped full-size config on the hardware that it names, and a scaling table.

    make plan-all
    .venv-compile/bin/python -m bench.plan_all [--scaling] [--only REGEX]

A program that was compiled before, by the same compilers, is not compiled again: results lie in
`.plan/` under the hash of the program, so that what was interrupted goes on. Rewrites the tables of
docs/plan.md, whose lines carry that hash. Ends with status 1 if a config does not fit.
"""

import argparse
import math
import pathlib
import re
import sys

from unijax.main import config as config_lib
from unijax.main import plan as plan_lib
from unijax.main.plan import Plan
from unijax.main.run import resolve
from unijax.plan import target

DOCS = pathlib.Path("docs/plan.md")
CACHE = pathlib.Path(".plan")
FULL_SIZE = [
    *(f"configs/janus_pro.py:{size},stage{n}" for size in ("1b", "7b") for n in (2, 3, 1)),
    *(f"configs/janus.py:stage{n}" for n in (2, 3, 1)),
    "configs/finetune.py",
]
# By model and chip: the rows a chip, over how many chips parameters are split at most, the topology
# that is compiled for, and those that its program is carried over to.
SCALING = {
    ("1.5B", "v5p"): (2, 16, "4x4x4", ("2x2x2", "2x4x4", "4x4x8", "4x8x8", "8x8x8")),
    ("7B", "v5p"): (1, 32, "4x4x8", ("2x2x2", "2x4x4", "4x4x4", "4x8x8", "8x8x8")),
    ("1.5B", "v6e"): (2, 16, "4x8", ("2x4", "8x8", "8x16", "16x16", "16x16*2")),
    ("7B", "v6e"): (1, 32, "8x8", ("2x4", "4x8", "8x16", "16x16", "16x16*2")),
    ("1.5B", "h100"): (4, 8, "8", ("8*4", "8*8", "8*16", "8*32", "8*64")),
    ("7B", "h100"): (1, 8, "8", ("8*4", "8*8", "8*16", "8*32", "8*64")),
}
STAGE = {"1.5B": "configs/janus_pro.py:1b,stage3", "7B": "configs/janus_pro.py:7b,stage3"}
HEADS = {
    "configs": "| config | hardware | fits | GiB a device: parameters + optimizer + batch + "
    "temporaries + rest = all of what there is | step at least (s) | MFU at most | in turn | "
    "bottleneck | program |\n|---|---|---|---|---|---|---|---|---|",
    "scaling": "| model, rows a chip | chips | GiB a chip, of | step (s), at once to in turn | "
    "MFU, at once to in turn | tokens/s, in turn | bottleneck | program |\n"
    "|---|---|---|---|---|---|---|---|",
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


def scaling_line(key: str, p: Plan, compiled_for: str) -> str:
    line, m = p.roofline, p.memory
    room = f"{gib(m.total)} of {gib(m.capacity)}" + " **no**" * (not p.fits)
    source = f"`{p.digest}`" + f" of `{compiled_for}`" * (p.topology != compiled_for)
    if line is None:
        return f"{key}{p.refusal} | | | | | {source} |"
    cells = [
        room,
        f"{line.seconds:.3f} to {line.seconds_in_turn:.3f}",
        f"{line.mfu:.0%} to {line.mfu_in_turn:.0%}",
        f"{p.amount / line.seconds_in_turn:,.0f}",
        line.bottleneck,
        source,
    ]
    return key + " | ".join(cells) + " |"


def put(table: str, key: str, line: str) -> None:
    """The line of `key` in a table of docs/plan.md, in place of an older one."""
    text = DOCS.read_text()
    begin, end = f"<!-- {table} -->\n", f"<!-- end of {table} -->"
    before, rest = text.split(begin)
    inside, after = rest.split(end)
    lines = [x for x in inside.splitlines() if "`" in x and not x.startswith(key)] + [line]
    inside = "\n".join([HEADS[table], *sorted(lines, key=_in_order)])
    DOCS.write_text(f"{before}{begin}{inside}\n{end}{after}")


def _in_order(line: str) -> tuple:
    """By the first column; where the second is a topology, then by kind and number of chips."""
    first, second = line.split(" | ")[:2]
    found = re.search(r"`(\w+):([\dx]+)(?:\*(\d+))?`", second)
    return first, found[1], math.prod(map(int, found[2].split("x"))) * int(found[3] or 1)


def scale(size: str, chip: str) -> None:
    """Compiles a step for one topology, and fills the lines of all."""
    rows, most, compiled_for, others = SCALING[size, chip]
    base = None
    for sides in (compiled_for, *others):
        chips = plan_lib.topology_of(resolve(config_lib.load(STAGE[size])), f"{chip}:{sides}")
        # Of a torus not all chips (docs/plan.md).
        fsdp = min(most, chips.size // 2 if chips.chip.dims else chips.size)
        sizes = {"data.rows": rows * chips.size, "mesh.data": chips.size // fsdp, "mesh.fsdp": fsdp}
        changes = [f"{key}={value}" for key, value in sizes.items()]
        run = resolve(config_lib.load(STAGE[size]), changes)
        if base is None:
            p = base = plan_lib.plan(run, chips, {}, CACHE)
        elif base.roofline is not None:
            p = plan_lib.carried_over(base, run, chips)
        else:
            continue
        key = f"| {size}, {rows} | `{p.topology}` | "
        put("scaling", key, scaling_line(key, p, base.topology))
        print(scaling_line(key, p, base.topology), flush=True)


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
            run = resolve(config_lib.load(name))
            p = plan_lib.plan(run, plan_lib.topology_of(run, None), {}, CACHE)
            put("configs", f"| `{name}` ", config_line(name, p))
            print(config_line(name, p), flush=True)
            bad += [] if p.fits else [name]
    else:
        for size, chip in SCALING:
            if re.search(options.only, f"{size} {chip}"):
                scale(size, chip)
    if bad:
        print("do not fit: " + ", ".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

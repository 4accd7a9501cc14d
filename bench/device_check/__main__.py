"""What an accelerator can tell in eight minutes.

    make device-check                                  # on one GPU; needs no make: see below
    python -m bench.device_check --out results.jsonl
    python -m bench.device_check --small               # a rehearsal on CPU, in minutes

Runs the parts below one after another, each in a process of its own that is ended when its time is
over; what a part leaves of its time falls to those after it. Lines of JSON are written as results
come. Needs jax, flax, optax and numpy, and torch for the peers of attention where it is there:
nothing else that unijax asks for. `python -m bench.device_check.report results.jsonl --write` puts
them into docs/device.md and the sizes of blocks that were found into their table.
"""

import argparse
import pathlib
import sys

from bench.device_check.runner import PARTS, check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="default: .device-check/results.jsonl")
    parser.add_argument("--small", action="store_true", help="small sizes, for a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=480.0, help="in all")
    options = parser.parse_args()
    folder = pathlib.Path(".device-check")
    out = options.out or folder / "results.jsonl"
    sys.exit(check(options.parts, out, folder, options.seconds, options.small))


if __name__ == "__main__":
    main()

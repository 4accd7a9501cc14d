"""Peak memory of converting a checkpoint of the shape of Janus-Pro 7B, both ways.

    python bench/convert_memory.py --dir DIRECTORY [--size janus_pro_7b] [--format hf]

Writes a synthetic bfloat16 checkpoint (15 GB at 7B), imports it, exports it again and compares
every tensor of the two, each step in a process of its own whose peak resident memory is printed.
Needs about three times the checkpoint's size on disk; what it wrote is removed at the end. The
bound that the project sets itself at 7B is 12 GiB.

Measured on 2 shared cores with 23 GiB of memory, 14.8 GB of bfloat16 in the format hf:

    import   9.49 GiB peak,   631 s
    export   4.28 GiB peak,   160 s
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable

BOUND_GIB = 12


def write_checkpoint(directory: pathlib.Path, size: str, format: str) -> None:
    """Random bytes of finite bfloat16 numbers under the names of the format."""
    import ml_dtypes
    import numpy as np

    from unijax.core.vocab import SpecialIds
    from unijax.interop.opening import abstract_params
    from unijax.interop.safetensors_writer import SafetensorsWriter
    from unijax.interop.systems.janus import configs
    from unijax.interop.systems.janus.tables import TABLES
    from unijax.interop.table import TensorInfo, foreign_shapes
    from unijax.systems.janus import SIZES

    config = SIZES[size]
    shapes = {p: a.shape for p, a in abstract_params("janus", config).items()}
    dtype = np.dtype(ml_dtypes.bfloat16)
    tensors = {
        name: TensorInfo(shape, dtype)
        for name, shape in foreign_shapes(TABLES[format](config), shapes).items()
    }
    directory.mkdir(parents=True)
    special = SpecialIds(bos=0, eos=1, pad=2, boi=3, eoi=4, image_placeholder=5)
    content = (
        configs.hf_config(config, "bfloat16", special)
        if format == "hf"
        else configs.deepseek_config(config, "bfloat16", special)
    )
    (directory / "config.json").write_text(json.dumps(content))
    writer = SafetensorsWriter(directory, tensors, 5 * 2**30)
    rng = np.random.default_rng(0)
    for name, info in tensors.items():
        # Exponents below the largest: no infinities, nothing that compresses.
        bits = rng.integers(0, 0x7F00, math.prod(info.shape), np.uint16)
        writer.write(name, bits.view(dtype).reshape(info.shape))
    writer.close()


def import_(source: pathlib.Path, run_dir: pathlib.Path) -> None:
    from unijax.interop.importing import import_checkpoint

    import_checkpoint(source, run_dir, tokenizer=source / "tokenizer")


def export(run_dir: pathlib.Path, out: pathlib.Path, format: str) -> None:
    from unijax.interop.exporting import export_checkpoint

    export_checkpoint(run_dir, out, format=format)


def compare(one: pathlib.Path, other: pathlib.Path) -> None:
    """Exits with an error unless both hold the same tensors to the bit."""
    import numpy as np

    from unijax.interop.sources import open_directory

    a, b = open_directory(one), open_directory(other)
    assert a.tensors == b.tensors, "names, shapes or dtypes differ"
    for name in a.tensors:
        same = np.array_equal(a.read(name).view(np.uint16), b.read(name).view(np.uint16))
        assert same, name


def write_tokenizer(directory: pathlib.Path) -> None:
    """The least tokenizer that an import accepts."""
    from unijax.data.sentencepiece_tokenizer import train

    words = ("bos", "eos", "pad", "boi", "eoi", "image_placeholder")
    corpus = ["a few words are enough for a tokenizer that nobody will use"] * 10
    names = {word: f"<{word}>" for word in words}
    train(directory, corpus, vocab_size=290, names=names, model_type="bpe")


def measure(name: str, step: Callable[[], object]) -> float:
    """Runs a step in a process of its own; returns its peak resident memory in GiB."""
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            step()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"{name} failed")
    peak = usage.ru_maxrss / 2**20  # KiB on Linux
    print(f"{name:8} {peak:6.2f} GiB peak, {time.perf_counter() - start:6.0f} s", flush=True)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="new; removed at the end")
    parser.add_argument("--size", default="janus_pro_7b")
    parser.add_argument("--format", default="hf", choices=("hf", "deepseek"))
    args = parser.parse_args()
    source, run_dir, out = (args.dir / name for name in ("source", "run", "out"))
    steps = {
        "write": lambda: (
            write_checkpoint(source, args.size, args.format),
            write_tokenizer(source / "tokenizer"),
        ),
        "import": lambda: import_(source, run_dir),
        "export": lambda: export(run_dir, out, args.format),
        "compare": lambda: compare(source, out),
    }
    if args.dir.exists():
        sys.exit(f"{args.dir} exists already")
    args.dir.mkdir(parents=True)
    try:
        peaks = {name: measure(name, step) for name, step in steps.items()}
    finally:
        shutil.rmtree(args.dir)
    worst = max(peaks["import"], peaks["export"])
    print(f"worst of import and export: {worst:.2f} GiB (bound at 7B: {BOUND_GIB} GiB)")
    sys.exit(worst > BOUND_GIB)


if __name__ == "__main__":
    main()

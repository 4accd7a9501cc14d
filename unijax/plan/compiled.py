"""Compiling once: what the compiler made of a program is kept under the program's hash."""

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import pathlib
import re
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import jax

from unijax.core.files import atomic_file
from unijax.plan.hardware import Topology


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program.

    Attributes:
      refusal: why it did not compile for want of memory, in its words; empty if it did.
      arguments, results, shared, temporaries, code: bytes on a device; results that are written
        over arguments are `shared`.
      seconds: that it took.
      text: of the program as it runs; empty if it did not compile.
    """

    refusal: str
    arguments: int
    results: int
    shared: int
    temporaries: int
    code: int
    seconds: float
    text: str


def digest_of(program: str, topology: Topology) -> str:
    compilers = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
    versions = []
    for name in compilers:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    text = "\n".join([program, str(topology), *versions])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _refusal(text: str) -> str:
    """The sentence of the compiler that names what it needed."""
    found = re.search(r"Used [\d.]+\w? of [\d.]+\w? \w+|[^\n]*\bexceed[^\n]*", text)
    return (found[0] if found else text.splitlines()[0])[:200].strip()


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """A line on stderr every 15 seconds of work that may take minutes."""
    done, began = threading.Event(), time.perf_counter()

    def tell():
        while not done.wait(15):
            print(f"{what}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def compile_once(
    lowered: Any, topology: Topology, digest: str, cache: pathlib.Path | None
) -> Compiled:
    """The program compiled, or what is kept of it in `cache`."""
    facts = cache / f"{digest}.json" if cache is not None else None
    text = cache / f"{digest}.hlo.gz" if cache is not None else None
    if facts is not None and facts.exists():
        with contextlib.suppress(OSError, ValueError, TypeError, EOFError, zlib.error):
            kept = json.loads(facts.read_text())  # where it is damaged, it is compiled anew
            return Compiled(**kept, text=gzip.decompress(text.read_bytes()).decode())
    out = _compile(lowered, topology)
    if facts is not None:
        facts.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(text) as temporary:
            temporary.write_bytes(gzip.compress(out.text.encode()))
        with atomic_file(facts) as temporary:
            kept = dataclasses.asdict(out)
            del kept["text"]
            temporary.write_text(json.dumps(kept, indent=1))
    return out


def _compile(lowered: Any, topology: Topology) -> Compiled:
    began = time.perf_counter()
    with progress(f"{topology}: compiling"):
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            seconds = time.perf_counter() - began
            return Compiled(_refusal(str(error)), 0, 0, 0, 0, 0, seconds, "")
    return described(compiled, time.perf_counter() - began)


def described(compiled: Any, seconds: float) -> Compiled:
    """What a program says that was compiled in so many seconds."""
    found = compiled.memory_analysis()
    return Compiled(
        refusal="",
        arguments=found.argument_size_in_bytes,
        results=found.output_size_in_bytes,
        shared=found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        seconds=seconds,
        text=compiled.as_text(),
    )

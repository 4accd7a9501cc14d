"""The same Janus in transformers/PyTorch and here, side by side on this machine, in float32.

    make bench                                        # all of it; rewrites docs/benchmarks.md
    python -m bench.janus --sections draw --rounds 3  # a part, printed alone
    python -m bench.janus --quick                     # tiny sizes: whether it runs

Every contender is a process of its own. They are asked in turns, and ratios are taken round by
round. Before anything is timed both must compute the same: losses of the first step to 1e-4, greedy
codes equal.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from bench.janus_case import CASES, Case
from bench.janus_report import machine, paragraph, put_section
from bench.janus_sections import SECTIONS, Contenders

DOCUMENT = pathlib.Path("docs/benchmarks.md")


def header(case: Case, rounds: int) -> str:
    """What is compared, and on what."""
    text, vision, vq = case.model.text, case.model.vision, case.model.vq
    layers = text.count_parameters()["layers"]
    measured = paragraph(
        f"{machine()}. Float32, nothing else running. A process for each contender, in turns,",
        f"{rounds} rounds: medians (least to greatest); ratios are taken round by round.",
    )
    model = paragraph(
        f"The model: a decoder of width {text.hidden_size} with {text.num_hidden_layers} layers",
        f"({layers / 1e6:.1f}M parameters), a vocabulary of {text.vocab_size} and",
        f"{vq.num_embeddings} codes; a tower of width {vision.hidden_size} with",
        f"{vision.num_hidden_layers} layers ({vision.count_parameters() / 1e6:.1f}M); an image",
        f"tokenizer of {vq.count_parameters() / 1e6:.1f}M; pictures of {vq.image_size} pixels and",
        f"{vq.num_tokens} tokens. Random weights, written by our export and loaded by",
        "`JanusForConditionalGeneration.from_pretrained`.",
    )
    return f"""## Janus beside transformers

    make bench

{measured}

{model}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    parser.add_argument("--sections", nargs="+", choices=[*SECTIONS], default=[*SECTIONS])
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 with --quick")
    parser.add_argument("--write", action="store_true", help=f"rewrite {DOCUMENT}")
    options = parser.parse_args()
    name = "quick" if options.quick else "full"
    case, rounds = CASES[name], options.rounds or (1 if options.quick else 5)
    report = [header(case, rounds)]
    print(report[0], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        steps = 1 + rounds * case.steps
        writer = [sys.executable, "-m", "bench.janus_case", name, folder, f"{steps}"]
        subprocess.run(writer, check=True)
        for section in options.sections:
            with Contenders(name, pathlib.Path(folder)) as contenders:
                report.append(SECTIONS[section](case, contenders, rounds))
            print(report[-1], flush=True)
    if options.write:
        old = DOCUMENT.read_text() if DOCUMENT.exists() else "# Benchmarks\n"
        DOCUMENT.write_text(put_section(old, "\n".join(report)))


if __name__ == "__main__":
    main()

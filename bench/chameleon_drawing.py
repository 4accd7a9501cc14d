"""Drawing by Chameleon: transformers' generate beside ours, side by side on this machine, float32.

    python -m bench.chameleon_drawing                # prints a table for docs/benchmarks.md
    python -m bench.chameleon_drawing --quick        # tiny sizes: whether it runs

One vocabulary of text and codes; 256 codes a picture, greedy, from the same weights on disk and the
same prompts, all equally long. transformers is asked as its user would ask it: image ids let
through (its forward masks them), all others suppressed, and with guidance a processor of logits
with a cache of its own for the unconditional rows (that of transformers 5.24 loses its cache, and
guides by the last token alone). Codes have to agree. A process each, in turns; ratios are taken
round by round. Beside ours stands the share of its time that reading the weights takes alone.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import numpy as np

from bench.janus_case import random_params
from bench.janus_contender import Contender, serve
from bench.janus_report import Spread, machine, ratio, read_speed, table
from unijax.core import tree
from unijax.core.record import to_json
from unijax.core.system import init_shapes
from unijax.data.document import Document, TextSpan
from unijax.data.templates import TEMPLATES
from unijax.data.tokenizer import load as load_tokenizer
from unijax.interop.exporting import export_checkpoint
from unijax.models.llama import LlamaConfig
from unijax.models.vqgan import VQConfig
from unijax.sample.logits import GREEDY
from unijax.sample.sampler import Sampler
from unijax.systems.chameleon import Chameleon, ChameleonConfig
from unijax.train.checkpoint import read_params
from unijax.train.streaming import LazyArray, write_params

TOKENIZER = "assets/tokenizer"
GUIDANCE = (1.0, 5.0)
BATCHES = (1, 8)
FIRST_CODE = 4096


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes; `words` of a prompt."""

    model: ChameleonConfig
    words: int = 24


def _case(text: LlamaConfig, pixels: int, codes: int) -> Case:
    vq = VQConfig(pixels, 32, (1, 1, 2, 4), 1, 128, 8, codes)
    return Case(ChameleonConfig(text, vq, FIRST_CODE))


def _text(vocab: int, width: int, hidden: int, layers: int, heads: int) -> LlamaConfig:
    head = width // heads
    return LlamaConfig(vocab, width, hidden, layers, heads, heads, head, qk_norm="layer_norm")


CASES = {
    "full": _case(_text(8192, 512, 1408, 8, 8), 128, 4096),
    "quick": _case(_text(4160, 64, 96, 2, 2), 32, 64),
}


def write_case(case: Case, folder: pathlib.Path) -> None:
    """Writes `run` and `model`, its export."""
    run = folder / "run"
    run.mkdir()
    load_tokenizer(TOKENIZER).save(run / "tokenizer")
    drawn = random_params(Chameleon(case.model))
    lazy = {path: LazyArray(x.shape, x.dtype, lambda x=x: x) for path, x in drawn.items()}
    config = {"system": "chameleon", "model": to_json(case.model), "data": {}}
    write_params(run, lazy, {"stage": "bench", "config": config})
    export_checkpoint(run, folder / "model", "hf")


def decoder(case: Case) -> dict[str, int]:
    """Numbers of its parameters, by path."""
    shapes = tree.flatten(nn.unbox(init_shapes(Chameleon(case.model)))["language_model"])
    return {path: x.size for path, x in shapes.items()}


def prompts(case: Case) -> np.ndarray:
    """int32 [8, words] of text ids."""
    return np.random.default_rng(1).integers(10, FIRST_CODE, (max(BATCHES), case.words))


def ours(case: Case, folder: pathlib.Path) -> dict:
    """Task: codes of the first prompts."""
    system, params = Chameleon(case.model), read_params(folder / "run")
    tokenizer = load_tokenizer(folder / "run" / "tokenizer")
    sampler = Sampler(system, params, tokenizer, TEMPLATES["janus_pro"])
    documents = [
        Document(f"{i}", (TextSpan(tuple(ids.tolist()), (0.0,) * case.words),))
        for i, ids in enumerate(prompts(case))
    ]

    def pictures(count: int, guidance: float) -> dict:
        began = time.perf_counter()
        codes = sampler.make(documents[:count], guidance=guidance, sampling=GREEDY)[:, 0]
        return {"seconds": time.perf_counter() - began, "codes": codes.tolist()}

    return {"pictures": pictures}


def theirs(case: Case, folder: pathlib.Path) -> dict:
    """Task: the same by `generate`."""
    import torch
    from transformers import ChameleonForConditionalGeneration, LogitsProcessor

    class Guided(LogitsProcessor):
        """The unconditional rows of one `generate`, a token further at each call."""

        def __init__(self, scale: float, prompt: torch.Tensor):
            self._scale, self._next, self._cache = scale, prompt, None

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            given = self._next if self._cache is None else ids[:, -1:]
            out = model(given, past_key_values=self._cache, use_cache=True)
            self._cache, free = out.past_key_values, out.logits[:, -1]
            return free + self._scale * (scores - free)

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = ChameleonForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    model.eval()
    special = load_tokenizer(folder / "run" / "tokenizer").special
    of_code = model.model.vocabulary_mapping.img2bpe
    code_of = {of: code for code, of in of_code.items()}
    others = [i for i in range(model.config.vocab_size) if i not in code_of]
    model.model.vocabulary_mapping.image_tokens = []  # whose logits its forward masks
    ids = torch.from_numpy(prompts(case))
    begin, image = (torch.full((len(ids), 1), i) for i in (special.bos, special.boi))
    # Without a condition pads stand for the words, and are attended.
    ids, free = (
        torch.cat([begin, words, image], dim=1)
        for words in (ids, torch.full_like(ids, special.pad))
    )

    def pictures(count: int, guidance: float) -> dict:
        guided = [Guided(guidance, free[:count])] if guidance != 1 else []
        began = time.perf_counter()
        with torch.no_grad():
            found = model.generate(
                ids[:count], attention_mask=torch.ones_like(ids[:count]), do_sample=False,
                min_new_tokens=case.model.vq.num_tokens, max_new_tokens=case.model.vq.num_tokens,
                suppress_tokens=others, logits_processor=guided,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        codes = [[code_of[i] for i in row] for row in found[:, ids.shape[1] :].tolist()]
        return {"seconds": seconds, "codes": codes}

    return {"pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)  # one contender: NAME FOLDER
    options = parser.parse_args()
    name = "quick" if options.quick else "full"
    case = CASES[name]
    if options.side:
        side, folder = options.side
        serve({"ours": ours, "theirs": theirs}[side](case, pathlib.Path(folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_case(case, pathlib.Path(folder))
        lines = compare(case, folder, options)
    print(machine())
    size = sum(decoder(case).values())
    print(f"decoder of {size / 1e6:.1f}M parameters, {case.model.vq.num_tokens} codes a picture")
    titles = "batch", "guidance", "transformers, s", "unijax, s", "ratio", "equal", "of reading"
    print(table(titles, lines))


def compare(case: Case, folder: str, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Lines of the table."""
    quick, lines = ["--quick"] * options.quick, []
    read = 4 * sum(n for path, n in decoder(case).items() if "embed_tokens" not in path)
    alone = read / read_speed(read)  # before anything else runs
    module = "bench.chameleon_drawing"
    with (
        Contender(module, *quick, "--side", "ours", folder) as a,
        Contender(module, *quick, "--side", "theirs", folder) as b,
    ):
        for count in BATCHES:
            for guidance in GUIDANCE:
                asked = {"count": count, "guidance": guidance}
                first = [side.ask("pictures", **asked)["codes"] for side in (a, b)]
                equal = np.mean(np.asarray(first[0]) == np.asarray(first[1]))
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(options.rounds):
                    for side, taken in zip((a, b), times):
                        taken.append(side.ask("pictures", **asked)["seconds"])
                mine, other = (Spread.of(taken) for taken in times)
                share = alone * case.model.vq.num_tokens / mine.median
                lines.append(
                    (
                        f"{count}", f"{guidance:g}", other.text(2), mine.text(2),
                        f"**{ratio(times[1], times[0]).text(2)}**", f"{equal:.0%}", f"{share:.0%}",
                    )
                )  # fmt: skip
                print(*lines[-1], file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    main()

"""A contrastive step of EVA-CLIP in PyTorch and here, side by side on this machine, in float32.

    python -m bench.contrastive_step                 # prints a table for docs/benchmarks.md
    python -m bench.contrastive_step --quick         # tiny sizes: whether it runs

The peer (`bench/eva_peer.py`) is timm's EVA with open_clip's text tower and its loss, which are
what open_clip's EVA-CLIP is made of, and torch's fused AdamW. Both get the same weights, pictures
and texts, once whole, once with half of the patches left out (configs/eva_clip.py: g+, E): the same
patches on both sides. The loss is the softmax of all pairs; what its tiles save in memory is
measured by bench/pair_loss.py. Losses of the first steps have to agree before anything is timed. A
process each, in turns.
"""

import dataclasses
import itertools
import pathlib

import jax.numpy as jnp
import numpy as np

from bench import steps, steps_ours
from bench.janus_case import random_params
from bench.janus_contender import steps_of
from unijax.core.batch import ImageBatch
from unijax.interop import timm_tower
from unijax.interop.eva_parts import eva_clip, released
from unijax.models.clip import TEXT_SIZES, ClipTextConfig
from unijax.models.eva import SIZES, EvaConfig
from unijax.ops.dropping import kept_patches
from unijax.systems.contrastive import Contrastive, ContrastiveConfig
from unijax.train.stage import Rule

STEPS = 2  # of a round
DROPOUT = 0.5
OURS, PEER = "bench.contrastive_step", "bench.eva_peer"
GROUPS = (
    {"PyTorch": (PEER, "whole"), "unijax": (OURS, "whole")},
    {
        "PyTorch, half of the patches": (PEER, "dropout"),
        "unijax, half of the patches": (OURS, "dropout"),
    },
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: of the networks, and of a step."""

    vision: EvaConfig
    text: ClipTextConfig
    width: int
    pairs: int

    def system(self, side: str) -> Contrastive:
        dropout = DROPOUT if side == "dropout" else 0.0
        vision = dataclasses.replace(self.vision, patch_dropout=dropout)
        meets = {"loss": "softmax", "vision_pooling": "class", "vision_bias": True}
        return Contrastive(ContrastiveConfig(vision, self.text, self.width, **meets))


CASES = {
    # EVA02-CLIP-B/16 with a third of its layers.
    "full": Case(
        dataclasses.replace(SIZES["eva02_base_patch16_clip_224"], num_hidden_layers=4),
        dataclasses.replace(TEXT_SIZES["clip_text_512x12"], num_hidden_layers=4),
        width=512,
        pairs=16,
    ),
    "quick": Case(
        dataclasses.replace(SIZES["eva02_test"], attention_norm=True),
        TEXT_SIZES["clip_text_test"],
        width=24,
        pairs=4,
    ),
}


def batch_of(case: Case) -> ImageBatch:
    """Pictures are noise, texts random ids of all lengths that end with the largest id."""
    rng = np.random.default_rng(0)
    n, side, longest = case.pairs, case.vision.image_size, case.text.max_length
    length = rng.integers(2, longest + 1, n, np.int32)
    end = case.text.vocab_size - 1
    text = rng.integers(1, end, (n, longest), np.int32)
    text[np.arange(longest) >= length[:, None]] = 0
    text[np.arange(n), length - 1] = end
    return ImageBatch(
        pixels=rng.integers(0, 256, (n, side, side, 3), np.uint8),
        weight=np.ones(n, np.float32),
        seed=np.arange(n, dtype=np.uint32),
        text=text,
        text_length=length,
    )


def write(case: Case, folder: pathlib.Path, count: int) -> None:
    del count  # all steps are on one batch
    text, batch = case.text, batch_of(case)
    settings = {
        "eva": timm_tower.arguments(case.vision),
        "text": {
            "context_length": text.max_length,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
            "output_dim": case.width,
        },
    }
    table = eva_clip(case.vision, released(case.vision, theirs="visual."))
    steps_ours.write(folder, settings, table.entries, random_params(case.system("whole")))
    kept = kept_patches(jnp.asarray(batch.seed), case.vision.num_tokens, DROPOUT)
    np.savez(folder / "batch.npz", pixels=batch.pixels, text=batch.text, kept=np.asarray(kept))


def ours(case: Case, folder: pathlib.Path, side: str) -> dict:
    """Task: a round of steps."""
    del folder  # weights and batch are a function of the case
    system, batch = case.system(side), batch_of(case)
    training = steps_ours.Training(system, steps_ours.stage(Rule("")), batch)
    training.begin(random_params(system))
    return {"steps": steps_of(training.step, itertools.repeat(batch))}


def main() -> None:
    case, found = steps.run(__doc__, CASES, write, ours, GROUPS, STEPS)
    vision, text = case.vision, case.text
    print(
        f"Towers of width {vision.hidden_size} with {vision.num_hidden_layers} layers and of width "
        f"{text.hidden_size} with {text.num_hidden_layers}, {case.pairs} pairs: pictures of "
        f"{vision.num_tokens} patches, texts of up to {text.max_length} tokens."
    )
    print(found.table("pairs", case.pairs))
    for side in ("PyTorch", "unijax"):
        saved = found.over(f"{side}, half of the patches", side)
        print(f"{side}: all patches / half of them, seconds: {saved}")


if __name__ == "__main__":
    main()

"""An export in deepseek-ai's format, in deepseek-ai's own code: same ids, pixels, logits, pictures.

    python -m bench.deepseek_check --code CHECKOUT   # a clone of deepseek-ai/Janus

Their code has the sizes of tower and image tokenizer by name, so the model here has both in full
(SigLIP-L/16 at 384, VQ-16) and a small decoder whose settings are none of the defaults. Weights are
random. Both sides get text, two questions about pictures and words to draw; the differences are
printed, and the exit status is 1 where one is beyond its limit.

Needs PyTorch and attrdict, einops, timm, torchvision and transformers before 5, with which their
code does not import. They can lie in a folder of their own, given with --packages:

    pip install --no-deps --target FOLDER attrdict six einops timm torchvision \\
        'transformers<5' 'huggingface_hub<1' 'tokenizers<0.23'

Takes 7 GB of memory at most, 4 GB of disk, and some minutes. Figures: docs/weights.md.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from bench.janus_case import drawing_ids, random_params
from unijax.core.batch import Kind, PackedBatch
from unijax.core.record import to_json
from unijax.core.system import Params
from unijax.data import tokenizer as tokenizers
from unijax.data.templates import TEMPLATES
from unijax.interop.exporting import export_checkpoint
from unijax.models import siglip, vqgan
from unijax.models.llama import LlamaConfig
from unijax.ops.image import to_signed
from unijax.sample.logits import GREEDY, guide
from unijax.sample.prompts import Prompting, conversation, question
from unijax.sample.sampler import Sampler
from unijax.systems.janus import Janus, JanusConfig
from unijax.train import checkpoint
from unijax.train.streaming import LazyArray, write_params

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEMPLATE = TEMPLATES["janus_pro"]
MODEL = JanusConfig(
    text=LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-4,
        rope_theta=300.0, max_position_embeddings=2048,
    ),
    vision=siglip.SIZES["siglip_large_patch16_384"],
    vq=vqgan.SIZES["vq_16"],
)  # fmt: skip
GUIDANCE = 5.0
TOLERANCE = 1e-4  # of the largest magnitude of theirs
# What no forward pass reads (docs/weights.md).
UNUSED = r"vision_model\.vision_tower\.attn_pool\..*|gen_vision_model\.quantize\.codebook_used"
SHARD = 400_000_000  # bytes: several files and an index

TURNS = (
    "Où est le café? 猫 🙂",
    "There:\n\nbehind  the red house, 3.14 miles from here.",
    "And a cat on the mat?",
)
QUESTIONS = ("What is it?", "Which of its colours is the brightest, and where?")
WORDS = "a close-up photo of a red cat, under a blue night sky"
ANSWER_TOKENS = 24


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between ours and theirs; `limit` is what it may be at most."""

    name: str
    found: float
    limit: float = 0

    def __str__(self) -> str:
        found = f"{self.found:.2e}" if self.limit else f"{self.found:g}"
        mark = "" if self.found <= self.limit else f"   beyond {self.limit:g}"
        return f"{self.name:44}{found:>10}{mark}"


def write_case(folder: pathlib.Path) -> dict:
    """Writes `run`, its export `model`, pictures and `prompts.json`, which is returned."""
    params = random_params(Janus(MODEL))
    # Their code normalises the rows of the codebook, so they are not of length 1 here.
    codebook = params["vqmodel/quantize/embedding"]
    codebook *= np.linspace(0.3, 3, len(codebook), dtype=np.float32)[:, None]
    # So that words count beside 576 patches, which a random tower makes much alike.
    params["language_model/embed_tokens/embedding"] *= np.float32(3)
    run = folder / "run"
    run.mkdir()
    tokenizers.load(ROOT / "assets" / "tokenizer").save(run / "tokenizer")
    config = {
        "system": "janus",
        "model": to_json(MODEL),
        "data": {"template": "janus_pro"},
    }
    lazy = {p: LazyArray(x.shape, x.dtype, lambda x=x: x) for p, x in params.items()}
    write_params(run, lazy, {"stage": "check", "config": config})
    export_checkpoint(run, folder / "model", format="deepseek", max_shard_bytes=SHARD)
    asked = {"turns": TURNS, "words": WORDS, "answer_tokens": ANSWER_TOKENS, "questions": []}
    # Of sides whose scaled short one is not whole, up and down, wide and tall.
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(200, 307), (500, 333)]):
        coarse = rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        path = folder / f"picture-{i}.png"
        picture.save(path)
        asked["questions"].append({"picture": str(path), "text": QUESTIONS[i]})
    (folder / "prompts.json").write_text(json.dumps(asked), encoding="utf-8")
    return asked


def run_theirs(
    code: pathlib.Path, folder: pathlib.Path, packages: list[pathlib.Path]
) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and words of bench/deepseek_theirs.py, in a process that has no JAX."""
    path = [*packages, code, ROOT]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(p.resolve()) for p in path),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "bench.deepseek_theirs", str(code.resolve()), str(folder)]
    # In the folder, where `generate` writes its pictures.
    subprocess.run(command, check=True, env=environment, cwd=folder)
    with np.load(folder / "theirs.npz") as arrays:
        said = json.loads((folder / "theirs.json").read_text(encoding="utf-8"))
        return dict(arrays), said


def relative(name: str, ours: Array | np.ndarray, theirs: np.ndarray) -> Difference:
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
    return Difference(name, float(np.abs(ours - theirs).max() / np.abs(theirs).max()), TOLERANCE)


def unequal(name: str, ours, theirs) -> Difference:
    """How many of two sequences differ, each missing one included."""
    ours, theirs = list(ours), list(theirs)
    wrong = sum(a != b for a, b in zip(ours, theirs))
    return Difference(name, wrong + abs(len(ours) - len(theirs)))


def regret(name: str, scores: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """What `scores` [N, K] lose by our choices instead of theirs: a near tie may go either way."""
    at = np.arange(len(theirs))
    lost = scores[at, theirs] - scores[at, ours]
    return Difference(name, float(np.abs(lost).max() / np.abs(scores).max()), TOLERANCE)


@functools.partial(jax.jit, static_argnums=0)
def causal_hidden(system: Janus, params: Params, x: Array) -> Array:
    """Of embeddings [B, T, D] without padding."""
    end = jnp.broadcast_to(jnp.arange(1, x.shape[1] + 1, dtype=jnp.int32), x.shape[:2])
    decoder = {"params": params["language_model"]}
    return system.language_model.apply(decoder, x, end - 1, jnp.zeros_like(end), end)[0]


@functools.partial(jax.jit, static_argnums=0)
def understood(system: Janus, params: Params, batch: PackedBatch) -> tuple[Array, Array]:
    """Embeddings and text logits of padded prompts."""
    hidden, _ = system.hidden(params, batch)
    return system.embed(params, batch), system.text_logits(params, hidden)


def check_files(said: dict) -> list[Difference]:
    unknown = [name for name in said["missing"] if not re.fullmatch(UNUSED, name)]
    return [
        Difference("tensors missing, beside the unused", len(unknown)),
        Difference("tensors unexpected", len(said["unexpected"])),
        Difference("tensors of another shape", len(said["mismatched"])),
    ]


def check_text(sampler: Sampler, params: Params, theirs: dict) -> list[Difference]:
    system, special = sampler.system, sampler.tokenizer.special
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(TURNS)]
    document = conversation(turns, sampler.tokenizer, sampler.template, "turns")
    ids = [special.bos, *(i for span in document.spans for i in span.ids)]
    hidden = causal_hidden(system, params, system.embed_text(params, jnp.array([ids])))
    return [
        unequal("text: ids", ids, theirs["text_ids"]),
        relative("text: logits", system.text_logits(params, hidden)[0], theirs["text_logits"]),
    ]


def check_questions(
    sampler: Sampler, params: Params, theirs: dict, said: dict, asked: list[dict]
) -> list[Difference]:
    conversations = [
        [
            {"role": "system", "content": said["system_prompt"]},
            question(q["text"], [pathlib.Path(q["picture"]).read_bytes()]),
        ]
        for q in asked
    ]
    documents = [
        conversation(c, sampler.tokenizer, sampler.template, "question") for c in conversations
    ]
    special = sampler.tokenizer.special
    batch, lengths = Prompting(sampler.system.layout, special).batch(documents)
    embeddings, logits = map(np.asarray, understood(sampler.system, params, batch))
    shown = batch.images["und"].pixels
    placed = np.where(batch.kind == Kind.TEXT, batch.tokens, special.image_placeholder)
    mask = theirs["und_mask"] == 1

    def rows(x: np.ndarray) -> np.ndarray:
        """What is not padding, which stands before each row on both sides."""
        return np.concatenate([row[-n:] for row, n in zip(x, lengths)])

    answers = sampler.answer(conversations, max_tokens=ANSWER_TOKENS, sampling=GREEDY)
    print(f"answers: {answers}")
    return [
        unequal("questions: lengths", lengths, mask.sum(axis=1)),
        unequal("questions: ids", rows(placed), theirs["und_ids"][mask]),
        relative("questions: pixels", to_signed(shown[:, 0]), theirs["und_pixels"]),
        relative("questions: embeddings", rows(embeddings), theirs["und_embeddings"][mask]),
        relative("questions: logits", rows(logits), theirs["und_logits"][mask]),
        unequal("questions: answers", answers, [a.strip() for a in said["answers"]]),
    ]


def check_drawing(sampler: Sampler, params: Params, theirs: dict) -> list[Difference]:
    system, special = sampler.system, sampler.tokenizer.special
    ids = drawing_ids(WORDS, sampler.tokenizer, sampler.template, system.layout)
    without = [ids[0], *[special.pad] * (len(ids) - 2), ids[-1]]
    codes = jnp.asarray(theirs["codes"])
    given = system.embed_codes(params, codes[:-1])
    prompt = system.embed_text(params, jnp.array([ids, without]))
    x = jnp.concatenate([prompt, jnp.stack([given, given])], axis=1)
    hidden = causal_hidden(system, params, x)[:, len(ids) - 1 :]
    logits = np.asarray(system.code_logits(params, hidden))
    guided = np.asarray(guide(*theirs["gen_logits"], GUIDANCE))
    drawn = sampler.made([WORDS], guidance=GUIDANCE, sampling=GREEDY)[0, 0]
    # After a near tie that went the other way, the two pictures have little in common.
    same = np.cumprod(drawn == theirs["codes"]).sum()
    until = slice(None, same + 1)
    decoded = jax.jit(system.decode_codes)(params, codes[None])[0]
    print(f"{same} of {len(codes)} codes drawn alike, {len(set(drawn.tolist()))} different ones")
    return [
        unequal("drawing: ids", ids, theirs["gen_ids"]),
        relative("drawing: logits of both streams", logits, theirs["gen_logits"]),
        relative("drawing: guided logits", guide(*logits, GUIDANCE), guided),
        regret("drawing: codes", guided[until], drawn[until], theirs["codes"][until]),
        relative("drawing: pixels", decoded, theirs["decoded"]),
    ]


def check_encoding(sampler: Sampler, params: Params, theirs: dict) -> list[Difference]:
    system = sampler.system
    vq = {"params": params["vqmodel"]}
    pixels = jnp.asarray(theirs["und_pixels"][:1])
    encode = jax.jit(functools.partial(system.vqmodel.apply, vq, method="encode_latents"))
    latents = encode(pixels)
    codes = system.vqmodel.apply(vq, latents, method=lambda m, z: m.quantize.nearest(z))[0]
    book = np.asarray(params["vqmodel"]["quantize"]["embedding"])
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    scores = unit(theirs["latents"]) @ unit(book).T
    return [
        relative("encoding: latents", latents[0], theirs["latents"]),
        regret("encoding: codes", scores, np.asarray(codes), theirs["encoded"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--code", type=pathlib.Path, required=True, help="checkout of Janus")
    parser.add_argument(
        "--packages", type=pathlib.Path, nargs="*", default=[], help="folders put first on its path"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, jax.default_matmul_precision("highest"):
        folder = pathlib.Path(name)
        asked = write_case(folder)
        theirs, said = run_theirs(options.code, folder, options.packages)
        params = checkpoint.read_params(folder / "run")
        tokenizer = tokenizers.load(folder / "run" / "tokenizer")
        sampler = Sampler(Janus(MODEL), params, tokenizer, TEMPLATE)
        print(f"transformers {said['transformers']}, torch {said['torch']}, jax {jax.__version__}")
        differences = [
            *check_files(said),
            *check_text(sampler, params, theirs),
            *check_questions(sampler, params, theirs, said, asked["questions"]),
            *check_drawing(sampler, params, theirs),
            *check_encoding(sampler, params, theirs),
        ]
    print(*differences, sep="\n")
    if any(d.found > d.limit for d in differences):
        sys.exit(1)


if __name__ == "__main__":
    main()

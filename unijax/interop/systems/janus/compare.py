"""What is compared of a Janus: prompts of every kind, and what we make of them."""

import functools
import pathlib

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from unijax.core.batch import Kind, PackedBatch
from unijax.core.system import Params
from unijax.interop.interface import Outputs
from unijax.interop.rows import ROWS, addresses, column, ordinary, rows, slots
from unijax.interop.source_tokenizer import load_foreign
from unijax.interop.systems.janus.reference import Prompts
from unijax.systems.janus import Janus, JanusConfig

_WORDS = 12  # random text ids around an image


def make_prompts(config: JanusConfig, directory: pathlib.Path, rng: np.random.Generator) -> Prompts:
    """Random prompts of each kind; no special id but where it belongs."""
    c, special = config, load_foreign(directory).special
    ids = ordinary(special, c.text.vocab_size)

    def words(n: int) -> np.ndarray:
        return rng.choice(ids, (ROWS, n))

    size = c.vision.image_size
    image = column(special.boi, *[special.image_placeholder] * c.vision.num_tokens, special.eoi)
    return Prompts(
        text=np.concatenate([column(special.bos), words(3 * _WORDS)], axis=1),
        und=np.concatenate([column(special.bos), words(_WORDS), image, words(_WORDS)], axis=1),
        pixels=rng.integers(0, 256, (ROWS, size, size, 3), np.uint8),
        gen=np.concatenate([column(special.bos), words(_WORDS), column(special.boi)], axis=1),
        codes=rng.integers(0, c.vq.num_embeddings, (ROWS, c.vq.num_tokens)),
    )


def outputs(config: JanusConfig, params: Params, prompts: Prompts, theirs: Outputs) -> Outputs:
    """Ours, as `reference.outputs` has them; what it decoded is encoded."""
    out = _forward(
        config,
        params,
        rows([(Kind.TEXT, prompts.text)]),
        _und_rows(prompts, config),
        _gen_rows(prompts),
        prompts.codes.astype(np.int32),
        theirs["decoded"],
    )
    return jax.device_get(out)


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: JanusConfig,
    params: Params,
    text: PackedBatch,
    und: PackedBatch,
    gen: PackedBatch,
    codes: Int[Array, "B N"],
    pixels: Float[Array, "B height width 3"],
) -> dict[str, Array]:
    system = Janus(config)
    images, _ = system.hidden(params, gen)
    vq = {"params": params["vqmodel"]}
    return {
        "text": system.text_logits(params, system.hidden(params, text)[0]),
        "understanding": system.text_logits(params, system.hidden(params, und)[0]),
        # The N positions from begin-of-image on.
        "generation": system.code_logits(params, images[:, -codes.shape[1] :]),
        "decoded": system.decode_codes(params, codes),
        "latents": system.vqmodel.apply(vq, pixels, method="encode_latents"),
    }


def _und_rows(prompts: Prompts, config: JanusConfig) -> PackedBatch:
    first = 2 + _WORDS  # the image's first position: after bos, words and begin-of-image
    last = first + config.vision.num_tokens
    parts = [
        (Kind.TEXT, prompts.und[:, :first]),
        (Kind.UND, addresses(last - first)),
        (Kind.TEXT, prompts.und[:, last:]),
    ]
    return rows(parts, und=slots(pixels=prompts.pixels[:, None]))


def _gen_rows(prompts: Prompts) -> PackedBatch:
    n = prompts.codes.shape[1]
    # The last code is never an input.
    parts = [(Kind.TEXT, prompts.gen), (Kind.GEN, addresses(n - 1))]
    return rows(parts, gen=slots(codes=prompts.codes[:, None].astype(np.int32)))

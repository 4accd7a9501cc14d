"""Zero-shot classification beside open_clip's own on the same weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.oracles import open_clip
from tests.weights import distance, randomise, shapes_of, through
from unijax.core.batch import ImageBatch
from unijax.core.errors import UserError
from unijax.core.system import init_shapes
from unijax.data.clip_tokenizer import ClipTokenizer
from unijax.evaluate.zero_shot import class_vectors, judge, prompt_ids
from unijax.interop import clip_parts
from unijax.models.clip import ClipTextConfig, ClipVisionConfig
from unijax.ops.image import by_clip_statistics, to_signed
from unijax.systems.contrastive import Contrastive, ContrastiveConfig

CLASSES = ("a tabby cat", "DOGS", "fruit & vegetables", "the moon")
PROMPTS = ("a photo of {}.", "{}", "an oil painting of {}, framed")
SYSTEM = Contrastive(
    ContrastiveConfig(
        ClipVisionConfig(32, 8, 64, 128, 2, 2),
        ClipTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=2, hidden_act="quick_gelu"),
        16, "softmax", "class",
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    """open_clip's, of the same sizes."""
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32,
              "mlp_ratio": 2.0}  # fmt: skip
    text = {"width": 32, "heads": 2, "layers": 2, "mlp_ratio": 2.0}
    return randomise(open_clip.CLIP(16, vision, text, quick_gelu=True)).eval()


@pytest.fixture(scope="module")
def params(model):
    shapes = shapes_of(nn.unbox(init_shapes(SYSTEM)))
    state = model.state_dict()
    return jax.tree.map(
        jnp.asarray, through(clip_parts.openai(SYSTEM.config.vision), state, shapes)
    )


def test_classes_and_choices_are_open_clips(model, params):
    with torch.no_grad():
        theirs = open_clip.build_zero_shot_classifier(
            model,
            open_clip.SimpleTokenizer(),
            CLASSES,
            [lambda c, p=p: p.format(c) for p in PROMPTS],
            num_classes_per_batch=2,
        )
    ids, length = prompt_ids(ClipTokenizer(), CLASSES, PROMPTS, 77)
    ours = class_vectors(SYSTEM, params, jnp.asarray(ids), jnp.asarray(length))
    assert distance(np.asarray(ours), theirs.numpy().T) < 1e-4

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    prepared = np.array(by_clip_statistics(to_signed(jnp.asarray(pixels)))).transpose(0, 3, 1, 2)
    with torch.no_grad():
        scores = model.encode_image(torch.from_numpy(prepared.copy()), normalize=True) @ theirs
    best = scores.numpy().argmax(axis=1)
    assert len(set(best.tolist())) > 1
    label = np.arange(32) % len(CLASSES)
    weight = np.arange(32) < 24
    batch = ImageBatch(pixels, weight.astype(np.float32), label=label.astype(np.int32))
    right, count = judge(SYSTEM, ids, length)(params, batch)
    assert (float(right), float(count)) == ((best == label)[:24].sum(), 24)


def test_a_prompt_without_a_place_for_the_class_is_refused():
    for prompt in ("a photo", "{} or {}"):
        with pytest.raises(
            UserError, match=r"validation\.prompts: found '.*'; expected a text with"
        ):
            prompt_ids(ClipTokenizer(), CLASSES, (prompt,), 77)

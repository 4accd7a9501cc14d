"""The work of a step of the recipes that eat single pictures, all of them used."""

from collections.abc import Mapping

from unijax.models import efficientnet_lite
from unijax.models.clip import ClipTextConfig
from unijax.models.siglip import SiglipConfig
from unijax.plan.work import Part, Trained, Work, layers, plain
from unijax.systems import tokenizer
from unijax.systems.contrastive import ContrastiveConfig
from unijax.systems.tokenizer import TokenizerConfig
from unijax.train.stage import Rule


def tokenizer_work(model: TokenizerConfig, rules: Mapping[str, Rule], images: int) -> Work:
    """Of a step of the VQ tokenizer; the discriminator counts as if it had started.

    The loop counts the discriminator's three passes (two of its own term, one of the generator's)
    as if each trained it, and leaves out the perceptual network and the search for codes, which has
    no gradient.

    Raises:
      UserError: if nothing trains.
    """
    vq, trained = model.vq, Trained(rules)
    trains = "generator" in trained
    search = images * float(vq.search_flops_per_image())
    encode = images * float(vq.encode_flops_per_image()) - search
    decode = images * float(vq.decode_flops_per_image())
    found = {
        "VQ encoder": plain(encode, encode, trains) + Part(0.0, 0.0, search),
        "VQ decoder": plain(decode, decode, trains),
    }
    if model.discriminator is not None:
        one = images * float(model.discriminator.flops_per_image(vq.image_size))
        # Fooled: forward, and back to the picture. Its own term: both, of two pictures.
        passes = (2 if trains else 1) + (6 if "discriminator" in trained else 2)
        counted = plain(3 * one, 0.0, "discriminator" in trained)
        found["discriminator"] = Part(counted.forward, counted.true, passes * one)
    if model.perceptual_weight:
        stages = tokenizer.PERCEPTUAL_STAGES
        one = images * float(efficientnet_lite.flops_per_image(vq.image_size, stages))
        found["perceptual"] = Part(0.0, 0.0, 3 * one)  # of both pictures, and back to one
    return Work(amount=float(images), unit="image", parts=found, lookups={})


def contrastive_work(
    model: ContrastiveConfig,
    rules: Mapping[str, Rule],
    remat: str,
    pairs: int,
    text_length: int,
) -> Work:
    """Of a step of so many pictures with a text of `text_length` tokens each.

    Raises:
      UserError: if nothing trains.
    """
    trained, (vision, text), width = Trained(rules), (model.vision, model.text), model.embed_dim

    def tower(c: SiglipConfig | ClipTextConfig, tokens: int, before: float, name: str) -> Part:
        """`before`: FLOPs before the first layer."""
        last = before + c.num_hidden_layers * 2.0 * tokens * c.hidden_size * c.intermediate_size
        each = {"vision_model": vision.flops_per_image(), "text_model": text.flops_per_text(tokens)}
        backward = 2 if name in trained else 0
        return layers(float(pairs), pairs, float(each[name]), last, remat, backward)

    patches = 2.0 * vision.num_tokens * 3 * vision.patch_size**2 * vision.hidden_size
    image_out, text_out = (2.0 * pairs * c.hidden_size * width for c in (vision, text))
    compared = 2.0 * pairs**2 * width  # every picture with every text
    return Work(
        amount=float(pairs),
        unit="image",
        parts={
            "vision": tower(vision, vision.num_tokens, patches, "vision_model"),
            "text": tower(text, text_length, 0.0, "text_model"),
            "projections": plain(image_out, image_out, "vision_projection" in trained)
            + plain(text_out, text_out, "text_projection" in trained),
            "similarity": plain(compared, compared, "similarity" in trained),
        },
        lookups={"text_model/token_embedding/embedding": float(pairs * text_length)},
        forward_only=tuple(n for n in ("vision_model", "text_model") if n not in trained),
    )

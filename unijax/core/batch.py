"""The structs that systems eat: packed rows of spans, and batches of images."""

import enum
from typing import Any

import flax.struct

# The leaves are arrays, but of either library (host or device), and trees of the same shape hold
# shardings, shapes or specs: so the fields are typed in words.
Leaf = Any


class Kind(enum.IntEnum):
    """What the input at a position is."""

    PAD = 0  # nothing: sees nothing, is seen by nothing, only at the end of a row
    TEXT = 1
    UND = 2  # a token of an image to understand
    GEN = 3  # a token of an image to generate
    QUERY = 4  # a learned query that stands for an image to generate


class Target(enum.IntEnum):
    """What a position answers with, hence which head and loss it feeds."""

    NONE = 0
    TEXT = 1  # a text id
    CODE = 2  # an image code, addressed in the slots of its stream
    FEATURE = 3  # a continuous feature of an image token, addressed likewise
    NOISE = 4  # the noise of this position's own patch, addressed likewise


@flax.struct.dataclass
class ImageSlots:
    """The images of one stream of every row: at most I of them, each N tokens.

    Exactly one of `pixels`, `features`, `codes`, `latents` is set: raw images to encode in the
    step, or what a frozen encoder made of them ahead of time.

    Attributes:
      weight: 1 for a used slot, 0 for an empty one.
      seed: a function of (run seed, document, epoch, image), so that randomness belongs to the
        document and never to its place in a batch.
      pixels: sRGB, 0..255.
      features: output of the understanding encoder.
      codes: ids of the image tokenizer in raster order.
      latents: mean and log-variance of a KL autoencoder.
      t_max: largest noise of an image, 0 (clean) to 1; only where a stream's target is noise.
    """

    weight: Leaf  # float [B, I]
    seed: Leaf  # uint32 [B, I]
    pixels: Leaf = None  # uint8 [B, I, height, width, 3]
    features: Leaf = None  # float [B, I, N, D]
    codes: Leaf = None  # int32 [B, I, N]
    latents: Leaf = None  # float [B, I, h, w, 2 C]
    t_max: Leaf = None  # float [B, I]


@flax.struct.dataclass
class PackedBatch:
    """Rows of packed documents. See docs/architecture.md for the meaning of every field."""

    tokens: Leaf  # int32 [B, T]
    kind: Leaf  # int32 [B, T]
    segment: Leaf  # int32 [B, T]
    position: Leaf  # int32 [B, T]
    image: Leaf  # int32 [B, T]
    target_kind: Leaf  # int32 [B, T]
    target: Leaf  # int32 [B, T]
    weight: Leaf  # float [B, T]
    uid: Leaf  # uint32 [B, T]
    # By the name of their array (`core.stream.Stream.slots`): which there are is the config's.
    images: dict[str, ImageSlots] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class ImageBatch:
    """Images, with optional text: what tokenizers and contrastive encoders eat.

    Attributes:
      pixels: sRGB, 0..255.
      weight: 1 for an image, 0 for the filling of a last, short batch.
      seed: a function of (run seed, source, draw): randomness belongs to the picture.
      text: token ids, right-padded with zeros.
      text_length: number of valid ids.
      label: which of the classes it is of.
      masked: True for a patch, in raster order, that is not to be seen.
      features: what a frozen encoder made of the picture ahead of time.
      latents: mean and log-variance of a KL autoencoder, likewise.
    """

    pixels: Leaf  # uint8 [B, height, width, 3]
    weight: Leaf  # float [B]
    seed: Leaf = None  # uint32 [B]
    text: Leaf = None  # int32 [B, S]
    text_length: Leaf = None  # int32 [B]
    label: Leaf = None  # int32 [B]
    masked: Leaf = None  # bool [B, N]
    features: Leaf = None  # float [B, ...]
    latents: Leaf = None  # float [B, h, w, 2 C]

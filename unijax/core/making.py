"""How a recipe makes an image, as plain data: functions are methods of the recipe, by name.

`sample/` has one program for each kind of maker. Guidance works two prompts for one picture: the
one that was asked for, and what stands for no condition.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Codes:
    """One code after another, each the input of the next; then the pixels of all.

    Attributes:
      role: of its stream.
      tokens: N.
      logits: (params, hidden [B, D]) -> [B, K].
      embed: (params, codes [B]) -> [B, D].
      read: (params, pixels in -1..1 [B, height, width, 3]) -> codes [B, N].
      show: (params, codes [B, N]) -> pixels in -1..1.
      tokenizer: group of the parameters that `read` and `show` use.
      guidance: scale that is taken where none is asked for; 1 is without.
      embeds_all: `embed` is (params, codes [B, N], number of one) -> [B, D]: the input is of all
        codes up to that one; what stands behind it is nothing yet.
    """

    role: str
    tokens: int
    logits: str
    embed: str
    read: str
    show: str
    tokenizer: str
    guidance: float = 5.0
    embeds_all: bool = False


# What is painted without a condition: of zeros in place of vectors, or of the vectors that an
# unconditional prompt is written on with.
FREE = ("zeros", "prompt")


@dataclasses.dataclass(frozen=True)
class Painting:
    """A latent picture from noise, by a diffusion model that is shown vectors.

    Attributes:
      shape: of a latent picture, (height, width, channels).
      condition: (params, vectors [B, N, F]) -> what `predict` is shown [B, M, K].
      predict: (params, latents [B, *shape], timestep [B], shown) -> [B, *shape].
      sampler: (steps) -> a sampler of `ops.diffusion`.
      free: one of `FREE`.
      steps: denoising steps where no number is asked for.
    """

    shape: tuple[int, int, int]
    condition: str
    predict: str
    sampler: str
    free: str
    steps: int

    def __post_init__(self):
        assert self.free in FREE, self


@dataclasses.dataclass(frozen=True)
class Features:
    """One continuous vector after another, each the input of the next; then the pixels of all.

    Attributes:
      role: of its stream.
      tokens: N.
      predict: (params, hidden [B, D]) -> vectors [B, F].
      embed: (params, vectors [B, F]) -> [B, D].
      read: (params, pixels in -1..1 [B, height, width, 3]) -> vectors [B, N, F].
      show: (params, vectors [B, N, F], or what is painted of them) -> pixels in -1..1.
      tokenizer: group of the parameters that `read` and `show` use.
      guidance: scale that is taken where none is asked for: of the vectors, or, where these are
        painted, of that; 1 is without.
      painting: how a latent picture is made of the vectors; None: `show` makes pixels of them.
    """

    role: str
    tokens: int
    predict: str
    embed: str
    read: str
    show: str
    tokenizer: str
    guidance: float = 1.0
    painting: Painting | None = None


@dataclasses.dataclass(frozen=True)
class InPlace:
    """All tokens at once, from noise, worked again at every step; then the pixels.

    Attributes:
      role: of its stream.
      tokens: N.
      shape: of a latent picture, (height, width, channels).
      embed: (params, latents [B, *shape], timestep [B]) -> (inputs [B, N, D], what `predict`
        wants back). The timestep is that of the noise schedule, -1 for a clean picture.
      predict: (params, hidden [B, N, D], what `embed` gave, timestep [B]) -> [B, *shape].
      sampler: (steps) -> a sampler of `ops.diffusion`.
      read: (params, pixels in -1..1 [B, height, width, 3]) -> latents [B, *shape].
      show: (params, latents [B, *shape]) -> pixels in -1..1.
      tokenizer: group of the parameters that `read` and `show` use.
      carried: (params, latents [B, *shape]) -> what image slots carry of a picture that was made,
        as the recipe's `encoded` says; of codes and features they carry these themselves.
      steps: denoising steps where no number is asked for.
      guidance: scale that is taken where none is asked for; 1 is without.
    """

    role: str
    tokens: int
    shape: tuple[int, int, int]
    embed: str
    predict: str
    sampler: str
    read: str
    show: str
    tokenizer: str
    carried: str
    steps: int
    guidance: float


@dataclasses.dataclass(frozen=True)
class Queries:
    """Learned queries behind the prompt, all at once; what becomes of them is the condition of a
    diffusion model of its own, which draws from noise; then the pixels.

    Guidance is of words, and where the prompt shows pictures of these too (arXiv 2211.09800,
    section 3.2): `u + image_guidance (i - u) + guidance (c - i)`, where i is without words, and u
    without pictures too.

    Attributes:
      role: of its stream.
      tokens: N, queries.
      shape: of a latent picture, (height, width, channels).
      embed: (params, rows) -> inputs [rows, N, D].
      condition: (params, hidden [B, N, D]) -> what `predict` is shown [B, N, C].
      predict: (params, latents [B, *shape], timestep [B], shown) -> [B, *shape].
      sampler: (steps) -> a sampler of `ops.diffusion`.
      read: (params, pixels in -1..1 [B, height, width, 3]) -> latents [B, *shape].
      show: (params, latents [B, *shape]) -> pixels in -1..1.
      tokenizer: group of the parameters that `read` and `show` use.
      steps: denoising steps where no number is asked for.
      guidance: of words, where none is asked for; 1 is without.
      image_guidance: of pictures.
    """

    role: str
    tokens: int
    shape: tuple[int, int, int]
    embed: str
    condition: str
    predict: str
    sampler: str
    read: str
    show: str
    tokenizer: str
    steps: int
    guidance: float
    image_guidance: float


Maker = Codes | Features | InPlace | Queries


def steps_of(maker: Maker) -> int | None:
    """Its own number of denoising steps; None where nothing is denoised."""
    return getattr(getattr(maker, "painting", None) or maker, "steps", None)

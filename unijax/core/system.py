"""What the loop knows of a system."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from jax import Array

from unijax.core.batch import Kind, PackedBatch
from unijax.core.cost import Cost
from unijax.core.making import Maker
from unijax.core.masking import Masking
from unijax.core.stream import Layout

Params = dict[str, Any]  # nested dicts of arrays
Sums = dict[str, Array]  # scalar sums by the name of a loss term
# (sum, weight) by name, float32 scalars; the metric is their quotient.
Metrics = dict[str, tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a loss among the metrics is of.

    Attributes:
      unit: of its values: "nats a token", "MSE", "1 - cosine".
      group: of the mixture whose documents teach it: "text", "und" or "gen"; "" for pictures alone.
      title: what people are shown.
    """

    unit: str
    group: str
    title: str


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a frozen encoder makes of the pictures of some slots, in the step or ahead of it.

    Attributes:
      group: of its parameters, top-level.
      field: of `ImageSlots` that its outputs fill: "features", "codes" or "latents".
      shape: of one picture's.
      dtype: of what is kept, "float32" or "int32".
      method: of the recipe: (params, pixels in -1..1 [B, height, width, 3]) -> [B, *shape].
    """

    group: str
    field: str
    shape: tuple[int, ...]
    dtype: str
    method: str


@runtime_checkable
class System(Protocol):
    """A recipe: how networks are joined, and what is minimised.

    Equal systems are hashed alike (frozen dataclasses are): what is traced of one serves the other.

    The loop minimises the sum over terms of `loss(...)[0][term] / weights(...)[term]`.

    Attributes:
      encoders: top-level groups on the input side; frozen ones cost a forward pass alone.
      rows_alone: whether the sums of a batch are those of its rows, so that a step may work them in
        parts.
      losses: by NAME, what the metric `NAME/loss` is of.
      costs: FLOPs of its parts, by what they are spent on.
      lookups: tables of embeddings by path, and the unit (`core.cost`) of what is looked up.
      unused: paths that a step does not use, such as a decoder of pictures.
      own_axes: logical axis names that `core.axes` has not, and the known name each lies like.
    """

    encoders: frozenset[str]
    rows_alone: bool
    own_axes: Mapping[str, str]

    @property
    def losses(self) -> Mapping[str, Loss]: ...

    @property
    def costs(self) -> tuple[Cost, ...]: ...

    @property
    def lookups(self) -> Mapping[str, str]: ...

    @property
    def unused(self) -> tuple[str, ...]: ...

    def init(self, key: Array) -> Params:
        """Fresh parameters, each boxed with its logical axis names."""
        ...

    def weights(self, batch: Any) -> Sums:
        """The denominator of every term, from the batch alone."""
        ...

    def counts(self, batch: Any) -> Metrics:
        """Metrics of a step's batch that need no parameters, such as its tokens."""
        ...

    def loss(
        self, params: Params, batch: Any, key: Array | None, step: Array, frozen: frozenset[str]
    ) -> tuple[Sums, Metrics]:
        """Sums of the terms, and metrics.

        Args:
          params: the whole nested tree, trained and frozen leaves together.
          batch: what the system eats.
          key: of this step; None in evaluation, where nothing is dropped. What is drawn for a
            picture comes from its own seed.
          step: optimizer steps taken so far, int32 scalar.
          frozen: paths that are not trained, so that work for their gradients can be left out.
        """
        ...

    def amounts(self, batch: Any, as_causal: bool = False) -> dict[str, Array]:
        """How much of a batch there is of each unit that `costs` speaks of; padding excluded.

        Args:
          as_causal: count attention as if every packed row were one causal document, padding
            included, as most projects do; otherwise the pairs that are seen, the work to be done.
        """
        ...


@runtime_checkable
class RowSystem(System, Protocol):
    """A recipe of packed rows.

    Attributes:
      layout: what it asks of the data.
      sees_whole: kinds whose positions see their whole span, not only what stands before.
      encoded: by array of slots, the encoder that a cache may stand for.
      vocab_size: rows of the table of text ids.
      max_positions: of a document, that the model was made for.
      maker: how it makes an image; None for one that makes none.
      keeps: patterns of paths that a fine-tuning leaves as they are, as the system's own does.
      adapts: pattern of the layers that get adapters where these alone are tuned.
      modalities: what a token of each spends of the units of `costs`, pairs of attention aside.
    """

    sees_whole: tuple[Kind, ...]
    adapts: str

    @property
    def keeps(self) -> tuple[str, ...]: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def encoded(self) -> Mapping[str, Encoded]: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def maker(self) -> Maker | None: ...

    @property
    def modalities(self) -> Mapping[str, Mapping[str, float]]: ...

    def embed(self, params: Params, batch: PackedBatch) -> Array:
        """Every position's input `[B, T, D]`, by its kind."""
        ...

    def embed_text(self, params: Params, ids: Array) -> Array:
        """The inputs `[*b, D]` of text ids `[*b]`."""
        ...

    def head_logits(self, params: Params, hidden: Array) -> Array:
        """Of the text head, float32 `[*b, V]`, from hidden states `[*b, D]`: of all that the loss
        has in one softmax."""
        ...

    def text_logits(self, params: Params, hidden: Array) -> Array:
        """The same, of what may be written: ids that are never text are out of the question."""
        ...

    def for_decoding(self, params: Params) -> Params:
        """Parameters as `decode` takes them; the others stay as they are."""
        ...

    def init_cache(self, batch: int, length: int) -> Any:
        """An empty cache with room for `length` entries a row: a struct with `length`."""
        ...

    def decode(
        self,
        params: Params,
        x: Array,
        position: Array,
        kv_start: Array,
        kv_end: Array,
        cache: Any,
        kind: Kind | Array = Kind.TEXT,
    ) -> tuple[Array, Any]:
        """Hidden states `[B, T, D]` of T more positions a row, and the cache with them.

        Each sees the entries from its `kv_start` to its `kv_end`, those of this call included.

        Args:
          kind: of all positions, or of each, `[B, T]`.
        """
        ...


@runtime_checkable
class TextSystem(System, Protocol):
    """A recipe that compares pictures with texts.

    Attributes:
      vocab_size: rows of the table of text ids.
    """

    @property
    def vocab_size(self) -> int: ...

    def embed_images(self, params: Params, pixels: Array) -> Array:
        """Unit vectors `[B, D]` of pictures in -1..1 `[B, height, width, 3]`."""
        ...

    def embed_texts(self, params: Params, text: Array, length: Array) -> Array:
        """Unit vectors `[B, D]` of right-padded ids `[B, S]`."""
        ...


@runtime_checkable
class ClassSystem(System, Protocol):
    """A recipe that tells pictures of some classes apart.

    Attributes:
      classes: how many.
    """

    @property
    def classes(self) -> int: ...


@runtime_checkable
class MaskedSystem(System, Protocol):
    """A recipe of pictures some patches of which are masked.

    Attributes:
      masking: how many of how many.
    """

    @property
    def masking(self) -> Masking: ...


@runtime_checkable
class EncodedSystem(System, Protocol):
    """A recipe of pictures that a frozen encoder may have seen ahead of training.

    Attributes:
      encoded: by name, the encoders that a cache may stand for, each with a field of `ImageBatch`
        of its own.
    """

    @property
    def encoded(self) -> Mapping[str, Encoded]: ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a system is known by: the one thing that its module registers.

    Attributes:
      name: in configs and run directories.
      system: the class; called as `system(config, dtype=, param_dtype=, remat=)`.
      config: the dataclass of its sizes, `model` in configs.
      eats: "rows" (`PackedBatch`) or "pictures" (`ImageBatch`).
      sizes: published ones by name.
      ladders: where its size ladders are (`core.ladder`), as "module:attribute", a dict by name; ""
        for none.
    """

    name: str
    system: type
    config: type
    eats: str
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ladders: str = ""

    def __post_init__(self):
        assert self.eats in ("rows", "pictures"), self.eats


@functools.lru_cache(maxsize=64)  # a sweep plans, trains and counts the same few systems
def init_shapes(system: System) -> Params:
    """What `system.init` gives, as shapes; nothing is computed."""
    return jax.eval_shape(lambda: system.init(jax.random.key(0)))

"""From logits to a choice: guidance, temperature, top-k, top-p. All in float32."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from unijax.core.errors import UserError


@flax.struct.dataclass
class Choice:
    """How an id is chosen, as a compiled program takes it: None leaves a part out of the program.

    Attributes:
      temperature: float scalar that divides the logits; None takes the most likely id.
      top_k: int scalar; None keeps all.
      top_p: float scalar; None keeps all.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How an id is chosen, as a user says it.

    Attributes:
      temperature: 0 takes the most likely id, always.
      top_k: only the k most likely ids are drawn; 0 keeps all.
      top_p: only ids whose more likely ones sum to less than p are drawn; 1 keeps all.

    Raises:
      UserError: a number out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        for name, ok, expected in (
            ("temperature", self.temperature >= 0, "0 (the most likely) or more"),
            ("top_k", 0 <= self.top_k < 2**31, "0 (all) to 2,147,483,647"),
            ("top_p", 0 < self.top_p <= 1, "more than 0 and at most 1 (all)"),
        ):
            if not ok:
                raise UserError(name, f"{getattr(self, name)}", expected, "Change it.")

    def choice(self) -> Choice:
        if self.temperature == 0:
            return Choice()
        return Choice(
            jnp.float32(self.temperature),
            jnp.int32(self.top_k) if self.top_k else None,
            jnp.float32(self.top_p) if self.top_p < 1 else None,
        )


GREEDY = Sampling(temperature=0.0)


def guide(
    conditional: Float[Array, "*b V"],
    unconditional: Float[Array, "*b V"],
    scale: Float[Array, ""],
) -> Float[Array, "*b V"]:
    """Classifier-free guidance: `u + scale (c - u)` (arXiv 2410.13848, section 3.4)."""
    c, u = conditional.astype(jnp.float32), unconditional.astype(jnp.float32)
    return u + scale * (c - u)


def keep_top_k(logits: Float[Array, "*b V"], k: Int[Array, ""]) -> Float[Array, "*b V"]:
    """-inf below the k-th largest logit; what equals it stays."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.clip(k, 1, logits.shape[-1]) - 1
    least = jnp.take(ordered, last, axis=-1)[..., None]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*b V"], p: Float[Array, ""]) -> Float[Array, "*b V"]:
    """-inf for ids whose more likely ones sum to p or more (arXiv 1904.09751, section 3.1).

    The most likely id always stays, and ids of equal probability stay or go together.
    """
    share = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    ordered = jnp.sort(share, axis=-1, descending=True)
    before = jnp.cumsum(ordered, axis=-1)[..., :-1]
    before = jnp.concatenate([jnp.zeros_like(ordered[..., :1]), before], axis=-1)
    least = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(share < least, -jnp.inf, logits)


def choose(logits: Float[Array, "B V"], keys: Key[Array, "B"], choice: Choice) -> Int[Array, "B"]:
    """One id a row: temperature, then top-k, then top-p, then a draw with the row's own key."""
    logits = logits.astype(jnp.float32)
    if choice.temperature is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / choice.temperature
    if choice.top_k is not None:
        logits = keep_top_k(logits, choice.top_k)
    if choice.top_p is not None:
        logits = keep_top_p(logits, choice.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)

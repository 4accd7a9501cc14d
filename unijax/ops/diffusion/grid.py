"""The timesteps and levels of noise at which a sampler calls its network.

Timesteps: arXiv 2305.08891, table 2. Karras's levels: arXiv 2206.00364, equation 5.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from unijax.core.errors import UserError
from unijax.ops.diffusion.schedule import NoiseSchedule, shifted

SPACINGS = ("leading", "trailing", "linspace")
FINAL_SIGMAS = ("zero", "sigma_min")
KARRAS_RHO = 7.0


def check_steps(sampler: str, most: int, steps: int, fewest: int = 1) -> None:
    """Raises UserError for a number of denoising steps that the sampler cannot take."""
    if not fewest <= steps <= most:
        raise UserError(
            f"{sampler}: denoising steps",
            f"{steps}",
            f"{fewest} to {most}",
            "Change the number of steps.",
        )


def check_choice(where: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises UserError for a value that is not among the allowed ones."""
    if value not in allowed:
        raise UserError(where, repr(value), f"one of {list(allowed)}", "Correct it.")


def check_kind(sampler: str, schedule: NoiseSchedule, flow: bool) -> None:
    """Raises UserError for a rectified flow where the sampler knows none, or the other way."""
    if schedule.is_flow != flow:
        expected = "'flow'" if flow else "a schedule of variances, not 'flow'"
        raise UserError(
            f"{sampler}: noise schedule",
            repr(schedule.kind),
            expected,
            "Change the schedule, or take another sampler (dpm_solver, euler and heun do both).",
        )


def whole_timesteps(
    spacing: str, train_steps: int, steps: int, offset: int, where: str
) -> np.ndarray:
    """Timesteps, int64 `[steps]`, from much noise to little.

    Args:
      offset: added where the spacing is "leading".

    Raises:
      UserError: an unknown spacing, or an offset that leads beyond the last timestep.
    """
    return _inside(
        np.round(spaced(spacing, train_steps, steps, offset, where)).astype(np.int64),
        train_steps,
        where,
    )


def spaced(spacing: str, train_steps: int, steps: int, offset: int, where: str) -> np.ndarray:
    """As `whole_timesteps`, float64: those of "linspace" may lie between two timesteps."""
    check_choice(f"{where}.timestep_spacing", spacing, SPACINGS)
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps)[::-1]
    if spacing == "leading":
        leading = np.arange(steps)[::-1] * (train_steps // steps) + float(offset)
        return _inside(leading, train_steps, where)
    # The range may have one too many: by rounding it need not end where it should.
    return np.round(np.arange(train_steps, 0, -train_steps / steps)[:steps]) - 1


def _inside(timesteps: np.ndarray, train_steps: int, where: str) -> np.ndarray:
    if timesteps.max() >= train_steps:
        raise UserError(
            f"{where}.steps_offset",
            f"a first timestep of {timesteps.max():g}",
            f"at most {train_steps - 1}",
            "Lower the offset or the number of steps.",
        )
    return timesteps


def variance_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    """Noise over picture of every timestep, `sigma_t / alpha_t`, float32 [T], ascending."""
    kept = schedule.alphas_cumprod
    return ((1 - kept) / kept) ** 0.5


def between(sigmas: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """`sigmas` of timesteps, which may lie between two."""
    return np.interp(timesteps, np.arange(len(sigmas)), sigmas)


def karras(largest: float, smallest: float, steps: int) -> np.ndarray:
    """Descending levels, equally spaced in their seventh root."""
    first, last = largest ** (1 / KARRAS_RHO), smallest ** (1 / KARRAS_RHO)
    return (first + np.linspace(0, 1, steps) * (last - first)) ** KARRAS_RHO


def timesteps_of(levels: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The timesteps of `levels`, between those of the ascending `sigmas` by their logarithms."""
    return np.interp(np.log(np.maximum(levels, 1e-10)), np.log(sigmas), np.arange(len(sigmas)))


def flow_grid(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Descending levels of a flow as Stable Diffusion 3 and its successors take them, float32.

    Equally spaced between the ends of the shifted schedule, then shifted again.
    """
    ends = schedule.flow_sigmas[[-1, 0]].astype(np.float64)
    return shifted(np.linspace(*ends, steps), schedule.shift).astype(np.float32)


def with_last(sigmas: np.ndarray, final: str, schedule: NoiseSchedule, where: str) -> np.ndarray:
    """The level that the last step ends at, appended; float32.

    Raises:
      UserError: an unknown `final`, or "sigma_min" of a flow.
    """
    check_choice(f"{where}.final_sigmas_type", final, FINAL_SIGMAS)
    last = 0.0
    if final == "sigma_min":
        check_kind(f"{where}.final_sigmas_type='sigma_min'", schedule, flow=False)
        last = variance_sigmas(schedule)[0]
    return np.append(sigmas, last).astype(np.float32)


def kept_a_stride_on(
    schedule: NoiseSchedule, timesteps: np.ndarray, steps: int, set_alpha_to_one: bool
) -> np.ndarray:
    """Alpha-bar one stride below each timestep, where DDIM and PNDM step to; float32.

    A stride is the quotient of the timesteps and the steps whatever the spacing is.

    Args:
      set_alpha_to_one: below timestep 0 is the picture itself; otherwise timestep 0 again.
    """
    return kept_at(schedule, timesteps - schedule.num_train_timesteps // steps, set_alpha_to_one)


def kept_at(schedule: NoiseSchedule, timesteps: np.ndarray, set_alpha_to_one: bool) -> np.ndarray:
    """Alpha-bar of timesteps, some of which may lie below 0; float32."""
    kept = schedule.alphas_cumprod
    last = np.float32(1) if set_alpha_to_one else kept[0]
    return np.where(timesteps >= 0, kept[np.maximum(timesteps, 0)], last)


def at(tables: dict[str, np.ndarray], call: Int[Array, ""]) -> dict[str, Array]:
    """The float32 entries of one call."""
    return {name: jnp.asarray(table, jnp.float32)[call] for name, table in tables.items()}

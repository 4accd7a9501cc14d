"""Everything that a table of runs says: laws by system and loss, mixtures, ratios of systems."""

import dataclasses
from collections.abc import Callable

from unijax.core.errors import UserError
from unijax.scaling import validate
from unijax.scaling.interaction import Interaction, Mixture, alone, interaction, mixture
from unijax.scaling.parity import Parity, System, parity_of_systems
from unijax.scaling.study import Analysis, Chosen, FitConfig, analyse, choose, systems
from unijax.scaling.table import Runs


@dataclasses.dataclass(frozen=True)
class Results:
    """What was found.

    Attributes:
      analyses: of every system and loss; with a bimodal law, of the runs of one modality.
      interactions: the bimodal law by system; empty unless asked for.
      parities: (system, loss) -> the ratio to the reference; empty unless asked for.
      notes: what of the table was read otherwise than by its letters.
    """

    analyses: list[Analysis]
    interactions: dict[str, Interaction]
    parities: dict[tuple[str, str], Parity]
    notes: tuple[str, ...] = ()


def chosen_runs(runs: Runs, config: FitConfig) -> dict[tuple[str, str], Chosen]:
    """The runs behind the law of each (system, loss), all of them checked.

    Raises:
      UserError: for whatever `validate` refuses, or names that the table does not have.
    """
    names = systems(runs)
    if config.reference and config.reference not in names:
        raise UserError(
            "--reference", repr(config.reference), f"a system of the table: {names}", "Correct it."
        )
    if not config.bimodal:
        losses = config.losses or runs.losses
        return {(s, loss): choose(runs, s, loss, config) for s in names for loss in losses}
    runs, _ = validate.known_shares(runs, config.bimodal, config.drop_failed)
    first, second = config.bimodal
    found = {}
    for loss, other in ((first, second), (second, first)):
        here = alone(runs, loss, other)
        found |= {(s, loss): choose(here, s, loss, config) for s in names}
    return found


def chosen_mixtures(runs: Runs, config: FitConfig) -> dict[str, Mixture]:
    """The runs behind each system's bimodal law, all of them checked; none unless asked for.

    Raises:
      UserError: for whatever `validate` refuses.
    """
    if not config.bimodal:
        return {}
    runs, unknown = validate.known_shares(runs, config.bimodal, config.drop_failed)
    found = {}
    for system in systems(runs):
        one = mixture(runs.where(runs["system"] == system) if system else runs, config)
        found[system] = dataclasses.replace(one, failed=unknown + one.failed)
    return found


def analyse_table(
    runs: Runs, config: FitConfig, progress: Callable[[int], None] = lambda done: None
) -> Results:
    """Checks everything, then fits everything.

    Args:
      progress: called with the number of bootstrap draws done since the last call.

    Raises:
      UserError: as `chosen_runs`; then nothing is fitted.
    """
    chosen, mixed = chosen_runs(runs, config), chosen_mixtures(runs, config)
    found = {key: analyse(one, *key, config, progress) for key, one in chosen.items()}
    interactions, parities = {}, {}
    for system, one in mixed.items():
        laws = (found[system, loss] for loss in config.bimodal)
        interactions[system] = interaction(one, *laws, config)
    if config.reference:
        for system, loss in found:
            if system != config.reference:
                pair = (
                    System(a.fitted, a.draws, a.points)
                    for a in (found[system, loss], found[config.reference, loss])
                )
                parities[system, loss] = parity_of_systems(*pair, config.level, config.seed)
    return Results(list(found.values()), interactions, parities, runs.notes)

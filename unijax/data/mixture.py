"""Which source the next document comes from: a fair queue over groups, and over their sources.

The rule is worst-case fair weighted fair queueing (Bennett and Zhang 1996, WF2Q): of the queues
whose next document an ideal, fluid mixture would have begun to serve, take the one whose document
it would finish first. Then no prefix of the stream is further than one document (the longest one,
where tokens are counted) from the ratio, for any queue. Exact: whole numbers only.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction


@dataclasses.dataclass
class Queue:
    """A share of the stream.

    Attributes:
      weight: relative share; 0 is never served.
      served: documents or tokens so far.
    """

    weight: int
    served: int = 0


def whole(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the same proportion, where 0.3 is 3/10, not the binary number next to it."""
    fractions = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]


def choose(queues: Sequence[Queue], cost: Sequence[int]) -> int:
    """Index of the queue to serve next.

    Args:
      queues: with what each was given so far.
      cost: of the next document of each queue: its tokens, or 1 where documents are counted.
    """
    total = sum(queue.weight for queue in queues)
    served = sum(queue.served for queue in queues)
    best, best_end = None, 0
    for index, queue in enumerate(queues):
        if queue.weight == 0:
            continue
        begun = queue.served * total <= queue.weight * served
        if not begun:
            continue
        # When the fluid mixture would finish, as a fraction: end / weight (times total).
        end = queue.served + cost[index]
        if best is None or end * queues[best].weight < best_end * queue.weight:
            best, best_end = index, end
    # Weights are shares of one whole, so some queue has had no more than its share.
    assert best is not None
    return best

"""Which source the next document comes from: a fair queue over groups, and over their sources.

The rule is worst-case fair weighted fair queueing (Bennett and Zhang 1996, WF2Q): of the queues
whose next document an ideal, fluid mixture would have begun to serve, take the one whose document
it would finish first. Then no prefix of the stream is further than one document (the longest one,
where tokens are counted) from the ratio, for any queue. Exact: whole numbers only.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction


@dataclasses.dataclass
class Queue:
    """A share of the stream.

    Attributes:
      weight: relative share; 0 is never served.
      served: documents or tokens so far.
    """

    weight: Fraction
    served: int = 0


def as_fraction(weight: float) -> Fraction:
    """0.3 as 3/10, not as the binary number next to it."""
    return Fraction(str(weight))


def choose(queues: Sequence[Queue], cost: Sequence[int]) -> int:
    """Index of the queue to serve next.

    Args:
      queues: with what each was given so far.
      cost: of the next document of each queue: its tokens, or 1 where documents are counted.
    """
    total = sum(queue.weight for queue in queues)
    served = sum(queue.served for queue in queues)
    best, best_finish = None, None
    for index, queue in enumerate(queues):
        if queue.weight == 0:
            continue
        share = queue.weight / total
        begun = queue.served <= share * served
        finish = (queue.served + cost[index]) / share
        if begun and (best is None or finish < best_finish):
            best, best_finish = index, finish
    # Shares sum to 1, so some queue has had no more than its share.
    assert best is not None
    return best

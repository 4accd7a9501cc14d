"""The mixture: no prefix is further than one document from the ratio."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unijax.data.mixture import Queue, choose, whole

weights = st.lists(
    st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0]), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(weights.filter(any), st.data())
def test_any_prefix_is_within_one_document_of_the_ratio(shares, data):
    count_tokens = data.draw(st.booleans())
    lengths = st.integers(1, 400) if count_tokens else st.just(1)
    queues = [Queue(weight) for weight in whole(shares)]
    total = sum(queue.weight for queue in queues)
    heads = [data.draw(lengths) for _ in queues]
    longest = max(heads)
    steps = data.draw(st.lists(lengths, min_size=20, max_size=60))
    for following in steps:
        index = choose(queues, heads)
        assert queues[index].weight > 0
        queues[index].served += heads[index]
        heads[index] = following
        longest = max(longest, following)
        served = sum(queue.served for queue in queues)
        for queue in queues:
            assert abs(queue.served * total - served * queue.weight) <= longest * total


def test_whole_periods_are_exact():
    queues = [Queue(weight) for weight in whole([2.0, 3.0, 5.0])]
    for n in range(1, 101):
        queues[choose(queues, [1, 1, 1])].served += 1
        if n % 10 == 0:
            assert [queue.served for queue in queues] == [n // 5, 3 * n // 10, n // 2]


def test_shares_are_the_decimal_numbers_that_were_written():
    assert whole([0.3, 5.0, 0.01]) == [30, 500, 1]
    assert whole([2.0, 0.0, 5.0]) == [2, 0, 5]

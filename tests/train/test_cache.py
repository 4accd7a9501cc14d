"""Tables of encoders' outputs."""

import numpy as np

from unijax.data.document import ImageRef
from unijax.train import cache


def test_two_jobs_that_make_one_table_at_the_same_time_both_get_it(tmp_path):
    # The second to end found the directory there and failed.
    refs = {f"k{i}": ImageRef(f"r{i}", np.full((2, 2, 3), i, np.uint8)) for i in range(3)}
    params = {"w": np.array(2, np.float32)}

    def encode(params, x):
        return params["w"] * x.astype(np.float32).sum(axis=(1, 2, 3))

    reads = []

    def read(ref):
        reads.append(ref)
        if len(reads) == 2:  # in the midst of it
            cache.table(tmp_path, "und", params, encode, lambda r: r.raw, refs)
        return ref.raw

    made = cache.table(tmp_path, "und", params, encode, read, refs)
    assert [float(made(k)) for k in sorted(refs)] == [0.0, 24.0, 48.0]
    assert len(list(tmp_path.iterdir())) == 1

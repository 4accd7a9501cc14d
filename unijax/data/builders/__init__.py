"""The shipped datasets, prepared on first use and read by random access."""

from unijax.data.builders.prepare import Dataset, open_dataset

__all__ = ["Dataset", "open_dataset"]

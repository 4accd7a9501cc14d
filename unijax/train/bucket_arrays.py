"""Arrays of checkpoints in buckets of S3, which Orbax knows in those of Google Cloud alone.

Tensorstore reads and writes both: Orbax's spec for the one is turned into that of the other. To
import this is all that is to be done. Another endpoint than Amazon's is `AWS_ENDPOINT_URL`, as
other libraries have it.
"""

import os
import re
from typing import Any

from orbax.checkpoint._src.serialization import tensorstore_utils

_of_orbax = tensorstore_utils.build_kvstore_tspec


def _spec(directory: Any, name: str | None = None, **options: Any) -> dict:
    place = os.fspath(directory)
    if not re.match("s3:/", place):
        return _of_orbax(place, name, **options)
    spec = _of_orbax(re.sub("^s3:/+", "gs://", place), name, **options)
    _turn(spec)
    return spec


def _turn(spec: Any) -> None:
    for value in spec.values() if isinstance(spec, dict) else spec:
        if isinstance(value, dict | list):
            _turn(value)
    if isinstance(spec, dict) and spec.get("driver") in ("gcs", "gs"):
        spec["driver"] = "s3"
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            # One that is named needs no question where the bucket is.
            spec["endpoint"] = endpoint
            spec["aws_region"] = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
        if "AWS_ACCESS_KEY_ID" in os.environ:
            # Else the library tells, as an error, of each file of credentials that is not there.
            spec["aws_credentials"] = {"type": "environment"}


tensorstore_utils.build_kvstore_tspec = _spec

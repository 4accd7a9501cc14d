"""A server of S3 on this machine, for tests: `moto`, which is no part of what runs need."""

import os
from collections.abc import Iterator

import pytest

BUCKET = "s3://bucket"


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The address of a new bucket, which boto, s3fs and Tensorstore find by their environment."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    import boto3

    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    named = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in named}
    os.environ.update(named)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield BUCKET
    running.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    s3fs.S3FileSystem.clear_instance_cache()

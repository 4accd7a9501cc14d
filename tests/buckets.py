"""Servers of S3 and of Google's storage on this machine, for tests, by packages no run needs."""

import contextlib
import os
from collections.abc import Iterator

import pytest

NAME = "bucket"
# Else gcsfs, as it is imported, resolves to ask Google what kind of bucket each is.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.fixture(scope="session", params=["s3", "gs"])
def bucket(request) -> Iterator[str]:
    """The address of a new bucket, which fsspec and Tensorstore find by their environment."""
    with contextlib.ExitStack() as until:
        named = _s3(until) if request.param == "s3" else _google(until)
        before = {name: os.environ.get(name) for name in named}
        os.environ.update(named)
        yield f"{request.param}://{NAME}"
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _s3(until: contextlib.ExitStack) -> dict[str, str]:
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    import boto3

    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    until.callback(running.stop)
    host, port = running.get_host_and_port()
    s3fs.S3FileSystem.clear_instance_cache()
    until.callback(s3fs.S3FileSystem.clear_instance_cache)
    place, key = f"http://{host}:{port}", "test"
    client = boto3.client(
        "s3", "us-east-1", endpoint_url=place, aws_access_key_id=key, aws_secret_access_key=key
    )
    client.create_bucket(Bucket=NAME)
    return {
        "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": key,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": place,
    }  # fmt: skip


def _google(until: contextlib.ExitStack) -> dict[str, str]:
    gcsfs = pytest.importorskip("gcsfs")
    address = os.environ.get("STORAGE_EMULATOR_HOST") or _emulator(until)
    gcsfs.GCSFileSystem.clear_instance_cache()
    until.callback(gcsfs.GCSFileSystem.clear_instance_cache)
    return {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}


def _emulator(until: contextlib.ExitStack) -> str:
    """A server by `gcp-storage-emulator`, and the one condition of Google's that it lacks."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    from gcp_storage_emulator.exceptions import Conflict

    class Handler(emulator.RequestHandler):
        """`ifGenerationMatch=0`: an object is made only where there is none of its name."""

        def do_POST(self):
            create = self.storage.create_file

            def create_new(bucket: str, name: str, *args):
                if name in self.storage.objects.get(bucket, {}):
                    raise Conflict(name)
                create(bucket, name, *args)

            if "ifGenerationMatch=0" in self.path:
                self.storage.create_file = create_new
            try:
                super().do_POST()
            finally:
                self.storage.create_file = create

        def send_response(self, code: int, message: str | None = None):
            """A conflict is 412 at Google's, and 400 here."""
            unmet = code == 400 and "ifGenerationMatch=0" in self.path
            super().send_response(412 if unmet else code, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulator, "RequestHandler", Handler)
        running = emulator.create_server("localhost", 0, in_memory=True, default_bucket=NAME)
        running.start()
    until.callback(running.stop)
    return f"http://localhost:{running._api._httpd.server_address[1]}"

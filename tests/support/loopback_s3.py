"""An S3 server on this computer."""

from __future__ import annotations

import contextlib

import fsspec
import pytest


@contextlib.contextmanager
def loopback_s3(bucket):
    """Options of fsspec for a server with one bucket."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "key", "secret": "secret", "endpoint_url": f"http://{host}:{port}"}
    fsspec.filesystem("s3", **options).mkdir(bucket)
    yield options
    server.stop()

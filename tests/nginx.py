"""A real nginx in front of a gateway, configured as docs/operations.md says; skipped loudly where there is none."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serve.triton_server import free_port

PREFIX = "/tidegate"
# Connection and Upgrade are forwarded, which few do, because it is what request smuggling needs.
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream gateway {{
        server {gateway};
        keepalive 1;
    }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_set_header Connection $connection_of_client;
        proxy_set_header Upgrade $http_upgrade;
        location / {{ proxy_pass http://gateway; }}
        location {prefix}/ {{ proxy_pass http://gateway/; }}
    }}
    map $http_connection $connection_of_client {{
        default $http_connection;
        close "";
    }}
}}
"""


@contextmanager
def nginx_before(gateway_url: str, directory: Path) -> Iterator[str]:
    """Its address. All of its connections to the gateway are one."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        message = "no nginx here, nothing was tested behind a proxy (apt-get install nginx-light)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    port, file = free_port(), directory / "nginx.conf"
    gateway = gateway_url.removeprefix("http://")
    file.write_text(CONFIGURATION.format(directory=directory, gateway=gateway, port=port, prefix=PREFIX))
    process = subprocess.Popen([program, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")])
    try:
        for _ in range(100):
            assert process.poll() is None, (directory / "error.log").read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/livez")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)

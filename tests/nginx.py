"""A real nginx in front of a gateway; skipped loudly where there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testing.server import Server
from tests.docs.documents import ROOT, blocks
from tests.missing import missing

PREFIX = "/tidegate"
CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {servers}
}}
"""
# Connection and Upgrade are forwarded, as where WebSockets are proxied too; all requests share one connection to the gateway.
FORWARDING = """
upstream tidegate { server 127.0.0.1:5002; keepalive 1; }
map $http_connection $connection_of_client { default $http_connection; close ""; }
server {
    listen 80;
    location / {
        proxy_pass http://tidegate;
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_set_header Connection $connection_of_client;
        proxy_set_header Upgrade $http_upgrade;
    }
}
"""


def documented() -> str:
    """What docs/operations.md says, with the gateway under PREFIX."""
    (block,) = [block.text for block in blocks(ROOT / "docs" / "operations.md") if block.language == "nginx"]
    return block


@contextmanager
def nginx_before(gateway_url: str, directory: Path, servers: str) -> Iterator[str]:
    """Its address. ``servers``: as in documents, on port 80, with a gateway on port 5002."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        message = "no nginx here, nothing was tested behind a proxy (apt-get install nginx-light)"
        missing(message)
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    file = directory / "nginx.conf"
    ready = f"{PREFIX}/livez" if f"location {PREFIX}/" in servers else "/livez"
    nginx = Server([program, "-p", directory, "-c", file, "-e", directory / "error.log"], directory / "error.log", ready=ready)
    servers = servers.replace("listen 80;", f"listen 127.0.0.1:{nginx.port};")
    servers = servers.replace("127.0.0.1:5002", gateway_url.removeprefix("http://"))
    file.write_text(CONFIGURATION.format(directory=directory, servers=servers))
    with nginx:
        yield nginx.url

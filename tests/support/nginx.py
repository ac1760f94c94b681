"""A real nginx as a web server for tests: own config in a temporary folder, a free port, stopped by its process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 100000;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{
    listen 127.0.0.1:{port}; root {dir}/www;
    location = /echo-headers {{ return 200 "$request_method $host $http_x_forwarded_for $http_x_forwarded_proto\\n"; }}
    location = /no-content {{ return 204; }}
    location /upload {{ dav_methods PUT DELETE; create_full_put_path on; client_body_buffer_size 64k; }}
  }}
}}
"""


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_nginx(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield (port, document root) of an nginx that serves files, takes uploads (PUT /upload/...) and echoes headers."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    www = folder / "www"
    (www / "upload").mkdir(parents=True)
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(dir=folder, port=port))
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(port, process)
        yield port, www
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"nginx ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("nginx did not open its port")

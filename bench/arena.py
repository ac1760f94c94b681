"""The place where both sides run: our proxy with its node and nginx with local keys, pinned to the same core."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measure import CLIENT_CORE, SERVER_CORE, pin
from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.processes import Program, free_port, listens
from proxy.demo.web import nginx_program

SITE = "localhost"
_NGINX = """\
daemon off;
{user}worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;
    uwsgi_temp_path u; scgi_temp_path s;
    keepalive_requests 10000000;
    upstream web {{ server 127.0.0.1:{web_port}; keepalive 64; }}
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache off;
    ssl_certificate p256.pem; ssl_certificate_key p256.key;
    ssl_certificate rsa2048.pem; ssl_certificate_key rsa2048.key;
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        server_name {site};
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
}}
"""


def compile_client(folder: Path) -> Path:
    """Builds the load generator from its source; returns the program."""
    program = folder / "tls_client"
    source = Path(__file__).with_name("tls_client.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source), "-lssl", "-lcrypto"], check=True)
    return program


def _local_keys(folder: Path) -> None:
    """Keys and self-signed certificates of the kinds that the vault holds, as files for nginx."""
    kinds = {"p256": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa2048": ["-newkey", "rsa:2048"]}
    names = ["-subj", f"/CN={SITE}", "-addext", f"subjectAltName=DNS:{SITE}", "-days", "30"]
    for kind, options in kinds.items():
        files = ["-keyout", f"{folder}/{kind}.key", "-out", f"{folder}/{kind}.pem"]
        subprocess.run(["openssl", "req", "-x509", "-nodes", *options, *files, *names], check=True, capture_output=True)


def nginx_with_local_keys(folder: Path, web_port: int) -> tuple[Program, int]:
    """The peer, not started yet, and its port."""
    folder.mkdir(parents=True)
    _local_keys(folder)
    port = free_port()
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(port=port, web_port=web_port, site=SITE, user=user))
    command = [nginx_program(), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config)]
    return Program("nginx", command, folder / "output.log"), port


@contextlib.contextmanager
def running(program: Program, port: int, core: int) -> Iterator[Program]:
    """Starts a program that listens on `port`, pins it, and stops it at the end."""
    program.start()
    try:
        program.wait_until(listens("127.0.0.1", port), 20)
        pin(program.pid, core)
        yield program
    finally:
        program.stop()


@contextlib.contextmanager
def our_cluster(folder: Path, *, delay_ms: float | None = None, workers: int = 1) -> Iterator[Cluster]:
    """One node and the proxy, the node on the client's core; with `delay_ms`, a relay delays what passes between."""
    cluster = Cluster(ClusterSpec(folder, nodes=1, web_servers=1, workers=workers, proxy_config=""))
    cluster.prepare()
    with contextlib.ExitStack() as stack:
        if delay_ms is not None:
            port = free_port()
            node = cluster.nodes["node-1"]
            command = [sys.executable, "-m", "bench.delay", str(port), str(node.port), str(delay_ms)]
            stack.enter_context(running(Program("relay", command, folder / "relay.log"), port, CLIENT_CORE))
            text = cluster.proxy_config.read_text()
            cluster.proxy_config.write_text(text.replace(f'"127.0.0.1:{node.port}"', f'"127.0.0.1:{port}"'))
        cluster.start()
        stack.callback(cluster.stop)
        pin(cluster.proxy.pid, SERVER_CORE)
        for program in (*cluster.node_programs.values(), *cluster.web_programs):
            pin(program.pid, CLIENT_CORE)
        yield cluster

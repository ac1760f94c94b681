"""The web servers of the demo: real nginx, each with its own folder, port and page."""

from __future__ import annotations

import html
import os
import shutil
from pathlib import Path

from proxy.demo.processes import Program, ProgramError

# Paths are relative to nginx' prefix (-p): a folder may have any name.
_CONFIG = """\
daemon off;
{user}worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 0;
    keepalive_requests 100000;
    keepalive_timeout 75;
    default_type application/octet-stream;
    types {{ text/html html; text/plain txt; }}
    server {{
        listen 127.0.0.1:{port};
        root root;
        add_header X-Web-Server {name};
        location = /index.html {{ ssi on; }}
        location = /small {{ default_type text/plain; return 200 "ok"; }}
        location /upload/ {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Sealgate demo</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto; padding: 0 1rem; color: #1c2733; }}
h1 {{ font-size: 1.6rem; margin-bottom: .25rem; }}
p.lead {{ color: #4a5a6a; margin-top: 0; }}
table {{ border-collapse: collapse; margin-top: 1.5rem; width: 100%; }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #dde4ea; }}
th {{ font-weight: 600; width: 14rem; }}
code {{ background: #eef2f5; padding: .1rem .35rem; border-radius: .25rem; }}
</style>
</head>
<body>
<h1>You reached {name}</h1>
<p class="lead">The TLS handshake of this page was signed by an HSM node. The proxy in between never held the key.</p>
<table>
<tr><th>Web server</th><td><code>{name}</code></td></tr>
<tr><th>Site keys</th><td>{key_place}</td></tr>
<tr><th>Host</th><td><code><!--#echo var="http_host" default="-" --></code></td></tr>
<tr><th>X-Forwarded-For</th><td><code><!--#echo var="http_x_forwarded_for" default="-" --></code></td></tr>
<tr><th>X-Forwarded-Proto</th><td><code><!--#echo var="http_x_forwarded_proto" default="-" --></code></td></tr>
<tr><th>X-Forwarded-Port</th><td><code><!--#echo var="http_x_forwarded_port" default="-" --></code></td></tr>
</table>
<p>Reload: the other web server answers, too. Stop a node: nothing happens to you.</p>
</body>
</html>
"""


def nginx_program() -> str:
    """Path of nginx; Debian keeps it where ordinary users' PATH does not look."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ProgramError("nginx is not installed; run `apt-get install nginx-light`, or `make demo`, which does")
    return found


def web_server(name: str, port: int, folder: Path, key_place: str) -> Program:
    """An nginx that is ready to be started, with all its files in one folder; its page says where the keys are.

    Started by root, its worker stays root, or it could not read a folder that is root's alone.
    """
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    (root / "index.html").write_text(_PAGE.format(name=name, key_place=html.escape(key_place)))
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(port=port, name=name, user="user root;\n" if os.geteuid() == 0 else ""))
    command = [nginx_program(), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config)]
    return Program(name, command, folder / "output.log")

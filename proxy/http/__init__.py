"""HTTP/1.1 between clients and upstreams: parsing, framing, headers, connections and pools. Knows no TLS and no HSM.

Start reading at `server.py` (a client's connection), then `exchange.py` (one request), `upstream.py` and `pool.py`
(the other side). `syntax.py`, `framing.py`, `body.py`, `headers.py` and `authority.py` are the rules, without I/O.
`factory.HttpFactory` is what other rooms use.
"""

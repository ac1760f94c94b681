"""Client connections: joins the TLS engine, the signer and a protocol above. Knows no upstreams and no files."""

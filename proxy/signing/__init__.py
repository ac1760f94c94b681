"""Signatures from HSM nodes: which node holds which key, who is healthy, who is asked, and the links to them."""

"""TLS towards clients, without I/O: sites, certificates, contexts, the key provider and the engine."""

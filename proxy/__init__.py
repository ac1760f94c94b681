"""Sealgate's proxy: terminates TLS with keys that it does not have."""

__version__ = "0.1.0"

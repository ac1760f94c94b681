"""The node's commands: `node_app`, `vault_app` and `key_app`, mounted by the `sealgate` program.

Modules here import what is heavy, and `cryptography` above all, inside the commands: a proxy process must be able to
mount them before its OpenSSL provider is installed.
"""

"""`proxy.toml` as frozen values, and what is wrong with it. Knows no running objects."""

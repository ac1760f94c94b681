"""Real HSMs: keys in a PKCS#11 token, used through its maker's library in a process of its own."""

"""The demo: HSM nodes, web servers and the proxy as real programs on this machine; tests and benchmarks use it, too."""

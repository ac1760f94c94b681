"""One HSM node: who may sign with which key, how much work is taken, and serving it over mutually authenticated TLS."""

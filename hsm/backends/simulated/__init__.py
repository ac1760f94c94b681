"""A vault that behaves like an HSM: slow, narrow, and faulty on request."""

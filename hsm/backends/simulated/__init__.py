"""A vault that is as slow, as narrow and as faulty as an HSM can be: for tests of what depends on one."""

"""Paired measurements against nginx: same run, same core, alternating, medians. `python -m bench` runs them."""

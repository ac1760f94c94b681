"""Chaos: a cluster of simulated HSMs under load, one fault after another, and what clients felt of each."""

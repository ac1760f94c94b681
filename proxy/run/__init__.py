"""Processes: the master, its workers, the control process, and the metrics. Everything meets here."""

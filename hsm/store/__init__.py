"""Records, transactions and revisions in an encrypted SQLite file."""

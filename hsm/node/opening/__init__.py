"""Opens the tokens that a config names: the one place of the node that knows which kinds there are."""

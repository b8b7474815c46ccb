"""The policy network, and the masks that it draws: which patches, and how many."""

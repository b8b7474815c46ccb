"""Where the trials of an experiment are worked on: in processes of this machine, or on the nodes of a Ray cluster."""

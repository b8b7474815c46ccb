"""Learning from few labelled images, and from many without labels."""

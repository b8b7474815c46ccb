"""Public data sets, brought into the layout of a folder."""

"""What an experiment has come to: its rows on disk, and the tables and charts made of them."""

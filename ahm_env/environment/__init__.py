"""The masking problem for Gymnasium: single and vector environment, the episodes that both play, and wrappers."""

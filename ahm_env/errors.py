"""Every error a user can cause: one line that names the file, the likely cause and the remedy."""


class AHMError(Exception):
    """Base of all errors of this project. The command line prints its text and exits with status 2."""


class ImageError(AHMError):
    """An image, a mask, a label or their folder cannot be used."""


class SettingsError(AHMError):
    """A setting is out of range, or does not fit another."""


class CheckpointError(AHMError):
    """A file of weights or a checkpoint is damaged, or belongs to something else."""


class RunError(AHMError):
    """A run directory cannot be used: taken, finished with other settings, in use, or not writable."""


class TrainingError(AHMError):
    """Training stopped: a loss that is not finite, or a worker that died."""

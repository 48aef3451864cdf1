"""The one exception that means: the input is wrong, and here is what to do about it."""


class HarvestError(Exception):
    """Bad input, told in one clear sentence that names the file or the value.

    The command prints the sentence and exits with a status that is not 0; an asset fails with it
    and is not retried.
    """


class TransientError(HarvestError):
    """What is wrong may pass by itself, and nothing need be changed: W&B does not answer, say.

    Unattended, an asset that fails with it is tried again a few times.
    """

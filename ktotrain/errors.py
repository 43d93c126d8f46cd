"""What can go wrong, as users meet it: one line that says what, where, and what to do.

KtotrainError              exit 1
├── RecipeError            the recipe, all of its errors at once
├── DataError              the training or evaluation rows
├── ModelError             the model, tokenizer, adapter or reference
├── TrainingError          the run itself: a non-finite loss, no memory, no disk
├── StoppedError           exit 130 or 143: a signal asked the run to stop, and it did
└── UsageError             exit 2: the command line asks for something that does not exist
"""

from __future__ import annotations


class KtotrainError(Exception):
    """One clear error. `what` went wrong, `where` (file and line, row or recipe key), what to `do` about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}. {self.do}" if self.do else head


class RecipeError(KtotrainError):
    """The recipe is wrong; `what` has a line for each error in it."""


class DataError(KtotrainError):
    """The rows cannot be trained on."""


class ModelError(KtotrainError):
    """The model, tokenizer, adapter or reference cannot be used."""


class TrainingError(KtotrainError):
    """The run cannot go on."""


class StoppedError(KtotrainError):
    """A signal asked the run to stop, and it did; `exit_code` is what shells report for that signal.

    `resumable` says whether there is a checkpoint to go on from.
    """

    def __init__(self, what: str, *, where: str = "", do: str = "", number: int) -> None:
        super().__init__(what, where=where, do=do)
        self.exit_code = 128 + number
        self.resumable = False


class UsageError(KtotrainError):
    """The command line asks for something that does not exist."""

    exit_code = 2


TOO_LITTLE = ("can't allocate memory", "can't start new thread")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, or the machine's as torch or Python ask for it."""
    import torch

    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in TOO_LITTLE)

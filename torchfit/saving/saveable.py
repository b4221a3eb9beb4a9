"""The methods of a model that have to do with files."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torchfit._serialization.files import PathLike
from torchfit.saving import compiled, model_files, weights


class Saveable:
    """Gives a model `save`, `save_weights`, `load_weights`, and `compile` as plain data."""

    optimizer: Any
    _compile_arguments: dict[str, Any] | None

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._compile_arguments is not None

    def save(self, path: PathLike, overwrite: bool = True, include_optimizer: bool = True) -> None:
        """Write the whole model to one file: architecture, weights, optimizer, and how it was compiled.

        `torchfit.models.load_model` reads it. The file holds tensors and plain data, no code, and is written whole or
        not at all. A module with code of its own can always be saved; it is to be handed over again when loading.

        Args:
            path: Where to write, with any ending or none; also an address such as `s3://bucket/name`.
            overwrite: Whether a file that is there may be replaced.
            include_optimizer: Whether to store how the model was compiled and the optimizer's state.

        Raises:
            FileExistsError: There is a file already, and `overwrite` is `False`.
            OSError: The file cannot be written; it is named.
        """
        model_files.save_model(self, path, overwrite, include_optimizer)

    def save_weights(self, path: PathLike, overwrite: bool = True) -> None:
        """Write the weights to one file: the module's `state_dict`, which `torch.load` reads.

        If `path` ends in `.safetensors`, it is a file of that format.

        Args:
            path: Where to write; also an address such as `s3://bucket/name`.
            overwrite: Whether a file that is there may be replaced.

        Raises:
            FileExistsError: There is a file already, and `overwrite` is `False`.
            OSError: The file cannot be written; it is named.
        """
        weights.save_weights(self, path, overwrite)  # type: ignore[arg-type]

    def _writing_later(self, path: PathLike, weights_only: bool) -> Callable[[], None] | None:
        """Return what writes to a file, later or in another thread, what `save` or `save_weights` would write now.

        `None` if the method is not ours: what one of the user's own writes is not known.
        """
        name = "save_weights" if weights_only else "save"
        if getattr(type(self), name) is not getattr(Saveable, name) or name in vars(self):
            return None
        model: Any = self
        return weights.prepare_save(model, path) if weights_only else model_files.prepare_save(model, path)

    def load_weights(self, path: PathLike, by_name: bool = False, skip_mismatch: bool = False) -> None:
        """Copy the weights in a file into the module: all of them, or, if something does not fit, none.

        Args:
            path: A file of `save_weights` or `save`, a `.safetensors` file, or a `state_dict` written by `torch.save`.
            by_name: Whether keys that are only in the file or only in the module are left alone.
            skip_mismatch: Whether tensors of another shape are left alone, with a warning.

        Raises:
            ValueError: Keys are missing or unexpected, or shapes differ: all are named. Or the file is damaged, or
                holds something else.
            FileNotFoundError: There is no such file.
        """
        weights.load_weights(self, path, by_name, skip_mismatch)  # type: ignore[arg-type]

    def get_compile_config(self) -> dict[str, Any]:
        """Return the arguments of `compile`, empty before it was called.

        Losses, metrics and the optimizer are plain data; names stay names, your own functions themselves.
        """
        if self._compile_arguments is None:
            return {}
        return compiled.compile_config({"optimizer": self.optimizer, **self._compile_arguments})

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Call `compile` as `get_compile_config` says. A `compile` of your own is not called, with a warning.

        Raises:
            ValueError: A name is not known.
        """
        if type(self).compile.__module__.partition(".")[0] != __name__.partition(".")[0]:  # type: ignore[attr-defined]
            warnings.warn(
                f"{type(self).__name__} has a compile() of its own and was not compiled. Call it, or define "
                "compile_from_config(config).",
                stacklevel=2,
            )
        elif config:
            self.compile(**compiled.compile_arguments(config))  # type: ignore[attr-defined]

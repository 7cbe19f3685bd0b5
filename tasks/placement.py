"""Where a model is put while something is computed with it, and in which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from tasks.records import UserError

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """A device, and the dtype of the model's weights; editors compute in fp32 whatever it is."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @classmethod
    def named(cls, device: str, dtype: str) -> Self:
        """The placement that a user names.

        Raises:
            UserError: there is no such device or dtype.
        """
        if dtype not in DTYPES:
            raise UserError(f"there is no dtype {dtype!r}; name one of {', '.join(DTYPES)}")
        return cls(device_of(device), DTYPES[dtype])

    def described(self) -> dict[str, Any]:
        """For a manifest."""
        return {"device": self.device, "dtype": str(self.dtype).removeprefix("torch.")}


# That of everything unless a user names another.
PLACEMENT = Placement()


def device_of(name: str) -> str:
    """The device of that name; for `auto`, CUDA where there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device {name!r}; name cpu, cuda, cuda:1 or auto") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"the device {name!r} is not there: this machine has {count} for CUDA; "
            "leave out --device to use what is there"
        )
    return name

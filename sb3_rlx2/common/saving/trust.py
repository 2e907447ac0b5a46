"""Whether files may be loaded that can run code."""

from __future__ import annotations

import os

from sb3_rlx2.errors import ModelFileError

VARIABLE = "RLX2_TRUSTED"


def is_trusted(trusted: bool | None) -> bool:
    """Whether files may be unpickled.

    :param trusted: what the caller says; None: as the environment variable ``RLX2_TRUSTED`` says, 1 (default) or 0
    :raises ValueError: if the variable has another value
    """
    if trusted is not None:
        return trusted
    value = os.environ.get(VARIABLE, "1")
    if value not in ("0", "1"):
        raise ValueError(f"{VARIABLE}={value!r} is not allowed: 1 lets files be unpickled, 0 does not")
    return value == "1"


def check_trusted(trusted: bool | None, name: str) -> None:
    """Refuse a file with pickled objects, unless it is trusted.

    :param trusted: as for ``is_trusted``
    :param name: how to call the file
    :raises ModelFileError: if it is not trusted
    """
    if not is_trusted(trusted):
        raise ModelFileError(
            f"{name} holds pickled objects, which can run any code when they are loaded, and is not trusted. If you "
            f"trust whoever made it, load it with trusted=True or {VARIABLE}=1; or ask for it without pickle: "
            "rlx2 convert writes such a file"
        )

"""Files: written wholly or not at all, and read without running code from them."""

from sb3_rlx2.files.atomic import replacing
from sb3_rlx2.files.named_objects import register
from sb3_rlx2.files.states import read_state, write_state

__all__ = ["read_state", "register", "replacing", "write_state"]

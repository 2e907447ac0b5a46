"""``python -m sb3_rlx2``: the command line."""

import sys

from sb3_rlx2.zoo.command_line import main

if __name__ == "__main__":
    sys.exit(main())

"""python -m opinion_sae: the command `opinion-sae`, where it is not on the path."""

import sys

from opinion_sae.book.command import main

if __name__ == "__main__":
    sys.exit(main())

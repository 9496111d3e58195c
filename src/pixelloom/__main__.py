"""``python -m pixelloom`` is ``pixelloom``; torchrun starts it in this way."""

import sys

from pixelloom.cli import main

sys.exit(main())

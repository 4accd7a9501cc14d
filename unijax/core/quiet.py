"""What libraries say of their own accord, and this project says where a user must know it."""

import logging
import warnings

# Orbax and absl narrate every save, asyncio every failed write of one, gcsfs every call that it
# makes again.
for _name in ("absl", "asyncio", "gcsfs"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)
# Of a save that failed, and was told.
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

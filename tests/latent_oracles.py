"""diffusers, which nobody here wrote.

Where peft is installed it is imported by all of diffusers' networks, for adapters that no test asks
for; and peft imports accelerate, which may not be there. So diffusers is told that there is none.
"""

import diffusers
from diffusers import utils
from diffusers.utils import import_utils

import_utils._peft_available = utils.USE_PEFT_BACKEND = False

__all__ = ["diffusers"]

"""The package's one logger, so that a kernel joined from many modules has one too."""

import logging

logger = logging.getLogger("histofold")

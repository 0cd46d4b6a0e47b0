"""`python -m posttrain.cli`, for torchrun and where the script is not on the path."""

import sys

from posttrain.cli.main import main

sys.exit(main())

"""`python -m pipeline`."""

import sys

from pipeline import errors

try:
    from pipeline.cli import main
except ModuleNotFoundError as missing:  # click itself: this is not the Python of the virtual environment
    print(f"error: {errors.NOT_INSTALLED.format(missing.name)}", file=sys.stderr)
    sys.exit(errors.ToolchainError.exit_code)

main()

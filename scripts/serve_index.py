"""`ovd index serve`, for those who have a checkout."""

import sys

from ovd_agent.cli.main import run

if __name__ == "__main__":
    sys.exit(run("ovd_agent.cli.index_serve"))

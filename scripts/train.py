"""Train a student: `python scripts/train.py --env ovd/WebQA-v0 --algorithm ovd --out runs/qa`.

The same command resumes a run that was stopped.
"""

from __future__ import annotations

import sys

import tyro

from ovd_agent.config import TrainConfig
from ovd_agent.report.html import write_report
from ovd_agent.trainer import Trainer
from ovd_envs.errors import OVDError


def main(config: TrainConfig) -> int:
    try:
        summary = Trainer(config).run()
    except (OVDError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped: the same command goes on from {config.out}/checkpoints", file=sys.stderr)
        return 130
    print(f"EM {summary['em_before']:.3f} -> {summary['em_after']:.3f}")
    print(f"report: {write_report(config.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(TrainConfig, description=__doc__)))

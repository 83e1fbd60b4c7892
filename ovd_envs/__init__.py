"""Environments in which a student is taught by a teacher's verbal scores.

Importing registers `ovd/WebQA-v0` and `ovd/Math-v0` with Gymnasium. It loads gymnasium and numpy
only: an environment's parts are imported when one is made.
"""

import gymnasium

for _env_id in ("ovd/WebQA-v0", "ovd/Math-v0"):
    gymnasium.register(  # pyright: ignore[reportUnknownMemberType]
        _env_id,
        entry_point="ovd_envs.env:make_env",
        vector_entry_point="ovd_envs.vector_env:make_vector_env",
        kwargs={"env_id": _env_id},
    )

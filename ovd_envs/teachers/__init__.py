"""Who scores steps and demonstrates: the Teacher protocol itself is in `ovd_envs.scenario`."""

"""Students, rollouts, algorithms and the learner of on-policy verbal distillation."""

"""Our rollouts in other trainers; each file needs the package that it is named after."""

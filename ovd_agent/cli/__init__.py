"""The `ovd` command."""

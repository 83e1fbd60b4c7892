"""An index behind HTTP: batched across requests, bounded, switched without losing one."""

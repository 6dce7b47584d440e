"""Reports: pure functions of run folders. No checkpoint is opened and torch is not imported; one module per command."""

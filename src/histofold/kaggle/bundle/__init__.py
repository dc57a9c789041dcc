"""From an import closure to one readable kernel."""

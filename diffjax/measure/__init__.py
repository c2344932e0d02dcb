"""What computing costs on this machine: ceilings, actions, updates, as they are here and as published programs do."""

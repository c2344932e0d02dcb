"""The tasks, as data: sizes, simulators, reference scores, and where their data come from."""

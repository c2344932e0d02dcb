"""Simulators behind one interface; each robot's physics is imported when a simulator is made, not before."""

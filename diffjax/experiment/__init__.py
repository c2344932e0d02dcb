"""An experiment from the request to the recorded results."""

"""What trained policies are worth: evaluated again, filmed, or judged by recorded trajectories alone."""

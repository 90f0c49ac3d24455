"""A fleet of runners on paper: `make simulate` has a thousand models planned by the real planner, and run by no one."""

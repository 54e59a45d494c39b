"""What runs need and physics does not: processes, storage, the plan of a pass, a timer."""

"""What a prediction is worth: errors, equivariance, guard, tables and plots."""

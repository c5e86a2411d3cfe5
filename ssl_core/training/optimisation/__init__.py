"""The update of the weights: optimisers and schedules, the moving average, loss scaling."""

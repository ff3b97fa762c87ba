"""Search: budgets, allocation, strategies and the closed loop."""

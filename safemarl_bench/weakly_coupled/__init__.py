"""Weakly coupled decision problems: independent sub-problems that share an exogenous state and a resource."""

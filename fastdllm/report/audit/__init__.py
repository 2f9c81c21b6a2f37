"""The audit of results: what a rule sees (evidence), the rules, and the list of them."""

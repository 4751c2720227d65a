"""What both sides of a federation must agree on: identities, plans, protocol, budget and log."""

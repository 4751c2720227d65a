"""The hospital's side: its data, keys, policy, ledger and the training of a round."""

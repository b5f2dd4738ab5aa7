"""The command line: one argparse tree in three tiers (base; train or test; model and dataset)."""

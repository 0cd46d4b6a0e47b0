"""What a completion is worth: verifiers, judges, and functions of the user's own, combined with weights."""

"""A change control plan that the drawn package can meet: its margins are wide, as its cases are few."""

PLAN_OF_TESTS = """
[plan]
version = "test"
[package.drawn]
submitted_version = "2.0.1"
cohort = "kermany"
[[change]]
id = "retrain"
title = "Train again"
reason = "More cases."
touches = ["files.weights.npz", "files.golden.npz", "training", "calibration", "operating_points", "figures"]
keeps = ["training.cohort.name"]
[[change]]
id = "threshold"
title = "Another threshold"
reason = "Its own."
touches = ["operating_points", "figures", "files.README.md"]
keeps = ["files.weights.npz"]
[[change]]
id = "words"
title = "Words"
reason = "Words."
touches = ["title", "limitations"]
keeps = ["files.weights.npz"]
[cases]
fewest_present = 5
fewest_absent = 5
[limits]
auc = 0.6
sensitivity = 0.6
specificity = 0.6
retention_auc = 0.6
[subgroups]
by = ["sex", "view"]
fewest_present = 4
fewest_absent = 4
sensitivity = 0.9
specificity = 0.9
[threshold]
tolerance = 0.01
[statistics]
bootstrap = 200
seed = 1
"""

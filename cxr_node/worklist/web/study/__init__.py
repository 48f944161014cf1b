"""The page of one study: its images, what was found, what readers say, and all that became of it."""

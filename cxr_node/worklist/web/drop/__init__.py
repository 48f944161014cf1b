"""Trying images: what somebody drops on the page is looked at, told of, and gone. Nothing of it is a study."""

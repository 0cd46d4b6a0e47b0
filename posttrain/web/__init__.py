"""The labelling page: a person judges answers in a browser. Needs the extra `label`."""

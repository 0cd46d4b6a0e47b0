"""What the commands of `posttrain data` are told, a file each; the methods of recipes that curate are the same."""

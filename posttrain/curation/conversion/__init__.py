"""Any format that is read here into any other: told from the rows, understood, written anew."""

"""One physical world (chip, stage, column, specimen) behind servers that speak real wires."""

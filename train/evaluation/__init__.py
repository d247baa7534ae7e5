"""What an encoder can do, measured on the data at hand."""

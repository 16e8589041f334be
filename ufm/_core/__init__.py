"""What knows nothing of the model: arithmetic over lanes, blocks, programs, precision, files, checks."""

"""What a trained model is and how it came about: parts, FLOPs, report, history, pictures."""

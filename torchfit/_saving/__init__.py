"""What files of models and weights hold, and how it is turned into plain data and back."""

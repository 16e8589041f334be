"""What the benchmark times ufm with, and against: a clock, the problems, and peers that solve them."""

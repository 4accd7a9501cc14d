"""How a run or a sweep starts elsewhere: one description, rendered for engines that exist."""

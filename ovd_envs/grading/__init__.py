"""Whether an answer is right: text, mathematics, and the equations of a line of reasoning."""

"""Neural building blocks that know nothing of proteins or molecules."""

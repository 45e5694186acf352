"""What tokens cost a small language model, and what it makes of them."""

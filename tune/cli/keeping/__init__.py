"""Commands that keep house: delete, clean, pack, unpack."""

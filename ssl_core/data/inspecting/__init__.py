"""What is said of images before anything is trained with them: counts, damage, copies, a contact sheet."""

"""Several methods, one question: which is best for these images?"""

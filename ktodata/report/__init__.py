"""What is told of a dataset where it is published.

facts      counts, lengths and licences, gathered as rows pass
plots      lengths and shares as pictures
card       the dataset card
publish    data, card and pictures in a folder, and on the Hub
"""

"""Finding what is wrong with a data set, with a trained model: overlap, wrong labels, double and mixed identities."""

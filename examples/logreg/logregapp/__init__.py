"""Tumours told apart by logistic regression, together: an ordinary Flower app with scikit-learn."""

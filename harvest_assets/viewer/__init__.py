"""The page where people look at components."""

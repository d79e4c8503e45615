"""The chat tab: conversation, library of saved ones, comparison, votes."""

"""A fake hidden set through a packaged kernel, as Kaggle would run it."""

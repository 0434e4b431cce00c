"""What a reader gets: sections of words, tables and figures, as one page, as Markdown and as CSV."""

"""From files, folders and hub names to rows: formats, compression, text encodings."""

"""From a row as other trainers write it to messages: columns, keys, content parts, tools, rendered text."""

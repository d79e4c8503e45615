"""What a person types. Nothing heavy at import.

$ tandem up
$ tandem train --profile tiny --follow
$ tandem swap latest
"""

"""The commands of `recsys`, thin: each reads its options, calls one room, and says what it made and what to run next.

Importing this package must stay instant: a command imports what it needs when it runs.
"""
